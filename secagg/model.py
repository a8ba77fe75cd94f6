"""Site and coordinator name a model by one digest of its bytes, however these arrived."""

import hashlib
from collections.abc import Iterable

from consortium.canonical import Bytes, integer
from secagg.derive import hash_of


def model_digest(chunks: Bytes | Iterable[Bytes]) -> bytes:
    """32 bytes over the model's bytes (buffers, then parameters, float32 little-endian); chunk borders do not matter."""
    state, size = hashlib.sha256(), 0
    for chunk in [chunks] if isinstance(chunks, bytes | bytearray | memoryview) else chunks:
        state.update(chunk)
        size += memoryview(chunk).nbytes
    return hash_of("model", integer(size), state.digest())
