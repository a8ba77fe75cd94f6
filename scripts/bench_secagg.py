"""What protecting an update costs: this protocol beside Flower's SecAgg+, homomorphic encryption and the floors, in one process.

    scripts/bench secagg
    scripts/bench secagg --sizes 1e6,1e7,5e7 --repeats 7 --json secagg.json --markdown secagg.md
    scripts/bench secagg --quick --sizes 1e5,1e6

n = 10 sites, one of them protects one float32 vector. Each repetition runs every path once, in turn, so that what disturbs
the machine disturbs all; the table has medians, and the median of the ratios within the repetitions (smallest-largest).
CPU counts all threads of the process. Extra memory is measured in a fresh process for each path, after a small run that
loads everything: the highest resident size while it runs (VmHWM, set back by writing 5 to /proc/self/clear_refs) less the
resident size before it. The input is there before; the result is there after, so that the result counts.
"""

import argparse
import contextlib
import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_machine import machine, machine_line  # noqa: E402
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes  # noqa: E402
from flwr.common import bytes_to_ndarray, ndarray_to_bytes  # noqa: E402
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares  # noqa: E402
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key  # noqa: E402
from flwr.common.secure_aggregation.ndarrays_arithmetic import (  # noqa: E402
    factor_combine,
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize  # noqa: E402
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen  # noqa: E402
from flwr.supercore.primitives.asymmetric import (  # noqa: E402
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from consortium.identity import SigningKey  # noqa: E402
from secagg import numbers  # noqa: E402
from secagg.context import Context  # noqa: E402
from secagg.coordinator import Epoch, UploadPhase, VotePhase, start_epoch  # noqa: E402
from secagg.encoding import Update, decode_body, encode_header  # noqa: E402
from secagg.masks import BLOCK_BYTES, BODY_SECTION, CHUNK_BYTES, MaskKeys, mask_section  # noqa: E402
from secagg.model import model_digest  # noqa: E402
from secagg.site import SiteSession  # noqa: E402

Values: TypeAlias = NDArray[np.float32]  # (parameters,)
Arrays: TypeAlias = list[NDArray[Any]]
Go: TypeAlias = Callable[[], Any]  # the timed part of a run; what comes before it is not timed

SITES = 10
NOW = 1_000_000.0  # seconds; any clock reading serves
MODEL = model_digest(b"bench")
WEIGHT, COORDINATE_CLIP, SPREAD = 0.1, 1.0, 0.01
WARM_UP = 1_000  # values
MIB = 2.0**20
MANY_ROUNDS = 10**6
CHECKED = 1_000  # values of the sums that are compared with the mean before anything is timed
SERVER_LIMIT = 10**7  # values: every site's upload is in memory at once
CKKS_ONCE = 10**7  # values: above it CKKS runs in the first repetition only
TENSOR = 10**6  # values, as a layer has: NVFlare encrypts tensor by tensor, and smaller arrays suit Flower's code better
FASTER_FROM = 10**7  # values: the target against Flower's client is for models at least this large
LINEAR = 1.25  # a site's share of the work at the most sites may be this much larger than at the fewest
LINEAR_SITES = (5, 10, 20, 30)
SERVER_SITES = (10, 30)

OURS, OURS_2, OURS_16, OURS_16_2 = "ours", "ours, 2 threads", "ours, 16-bit ring", "ours, 16-bit ring, 2 threads"
PART, PART_2 = "ours, encode and mask only", "ours, encode and mask only, 2 threads"
CHACHA, CKKS = "ChaCha20 for AES, encode and mask only", "TenSEAL CKKS, as NVFlare"
FLOWER, FLOWER_TENSORS = "Flower SecAgg+", "Flower SecAgg+, in tensors of 1e6"
CTR, CTR_16, GCM = "floor: 10 AES-256-CTR streams", "floor: 10 AES-256-CTR streams, 16-bit", "floor: 10 streams, GCM code path"
COPY, ADD = "floor: memcpy", "floor: float32 add"

INCLUDED = {
    OURS: "whole `finish_update`: encode, dither, 10 masks, SHA-256, commitments, Shamir shares, sealing, signature; 1 thread",
    OURS_2: "the same with `threads=2`",
    OURS_16: "the same as the first row in the 16-bit ring, 1 thread",
    OURS_16_2: "the same in the 16-bit ring with `threads=2`",
    PART: "what Flower's row does: encode, dither, 10 masks; no digest, shares or signature; 1 thread",
    PART_2: "the same with `threads=2`",
    CHACHA: "as encode and mask only, with the keystreams of the 10 masks from ChaCha20",
    FLOWER: "what `_collect_masked_vectors` computes: weighting, quantise, self mask, 9 ECDH and pair masks, mod; one array; "
    "no decryption of shares, no serialisation",
    CKKS: f"weighting in float64, `ts.ckks_vector(...).serialize()` a tensor of {TENSOR:.0e} values, all ciphertexts kept; "
    "8192, [60, 40, 40], 2^40, symmetric; TenSEAL's own threads; without the context that NVFlare ships beside each vector",
    FLOWER_TENSORS: "the same work over a list of arrays of 1e6 values, as a model has layers",
    CTR: "10 streams of 4 bytes a parameter by `update_into` into one 256 KiB buffer, 1 thread",
    CTR_16: "10 streams of 2 bytes a parameter, the floor of the 16-bit ring",
    GCM: "the 10 streams of 4 bytes by the GCM code path",
    COPY: "the output vector copied into memory that is there",
    ADD: "one pass a += b over float32",
    "opening, ours": "`VotePhase.close` with t ballots (ballots, commitments, masks off, range check, SHA-256 of the sum, record), "
    "then the weighted mean as float64",
    "opening, Flower": "what `unmask_stage` computes: secrets combined, private masks, pair masks of the lost, mod, dequantise, "
    "mean; the same t and losses",
    "taking one more vector": "ours: `UploadPhase.receive` (signature, SHA-256, adding); Flower: `bytes_to_ndarray`, adding",
}


# --- this protocol ----------------------------------------------------------------------------------------------------


class Sites:
    """n real sites of one plan in one epoch, and the coordinator's value of it."""

    def __init__(self, n: int, ring_bits: int) -> None:
        keys = {f"site-{at:02d}": SigningKey.generate(os.urandom) for at in range(n)}
        identities = {name: key.public for name, key in keys.items()}
        self.context = Context(b"R" * 32, b"P" * 32, identities, n // 3, numbers.SMALLEST_EPOCH, MANY_ROUNDS, ring_bits)
        self.sessions = {name: SiteSession(self.context, name, key, 0, os.urandom) for name, key in keys.items()}
        self.epoch = self._epoch()
        self._last_round = 0

    def _epoch(self) -> Epoch:
        keys = start_epoch(self.context, 1, tuple(self.sessions))
        for site, request in keys.requests().items():
            keys = keys.receive(site, self.sessions[site].keys(request, NOW))
        kems = keys.close()
        for site, request in kems.requests().items():
            kems = kems.receive(site, self.sessions[site].kem(request, NOW))
        return kems.close()

    def open_round(self, parameters: int) -> UploadPhase:
        self._last_round += 1
        return self.epoch.open_round(self._last_round, "train", MODEL, header_length=2, body_length=parameters)

    def upload(self, phase: UploadPhase, site: str, values: Values, *, threads: int = 1) -> Go:
        """A site's `finish_update`, ready to be timed; it returns (control, y)."""
        session, n, ring_bits = self.sessions[site], len(self.sessions), self.context.ring_bits
        asked = session.begin_update(phase.requests()[site], MODEL, NOW)
        taken = session.take(asked)  # a new round each time, so never a repeated answer
        header = encode_header(np.array([1.0]), n)

        def go() -> tuple[bytes, memoryview]:
            update = Update(values, weight=WEIGHT, clip=COORDINATE_CLIP, n=n, entropy=os.urandom, ring_bits=ring_bits)
            return session.finish_update(taken, header, update, threads=threads)

        return go


def our_client(ring_bits: int, threads: int) -> Callable[[Values], Go]:
    sites = Sites(SITES, ring_bits)
    site = tuple(sites.sessions)[SITES // 2]  # with masks to add and to take off
    return lambda values: sites.upload(sites.open_round(len(values)), site, values, threads=threads)


def _update(values: Values) -> Update:
    return Update(values, weight=WEIGHT, clip=COORDINATE_CLIP, n=SITES, entropy=os.urandom)


def our_part(threads: int) -> Callable[[Values], Go]:
    def ready(values: Values) -> Go:
        delta, masks = os.urandom(32), [int.from_bytes(os.urandom(16)) for _ in range(SITES)]

        def go() -> NDArray[np.uint32]:
            keys = MaskKeys.of(delta, added=masks[: SITES // 2], removed=masks[SITES // 2 :])
            words: NDArray[np.uint32] = np.empty(len(values), np.uint32)
            mask_section(words, BODY_SECTION, keys, before=_update(values).write, threads=threads)
            return words

        return go

    return ready


def chacha_client(values: Values) -> Go:
    """The loop of `secagg.masks` over other streams."""

    def go() -> NDArray[np.uint32]:
        streams = [Cipher(algorithms.ChaCha20(os.urandom(32), os.urandom(16)), None).encryptor() for _ in range(SITES)]
        words: NDArray[np.uint32] = np.empty(len(values), np.uint32)
        update, zeros, buffer = _update(values), bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES)
        for at in range(0, len(words), BLOCK_BYTES // 4):
            block = words[at : at + BLOCK_BYTES // 4]
            update.write(at, block)
            for start in range(0, len(block), CHUNK_BYTES // 4):
                chunk = block[start : start + CHUNK_BYTES // 4]
                room = memoryview(buffer)[: chunk.nbytes]
                mask = np.frombuffer(room, np.uint32)
                for one in streams:
                    one.update_into(memoryview(zeros)[: chunk.nbytes], room)
                    np.add(chunk, mask, out=chunk)
        return words

    return go


# --- the floors -------------------------------------------------------------------------------------------------------


def ctr_stream() -> CipherContext:
    return Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()


def gcm_stream() -> CipherContext:
    return Cipher(algorithms.AES(os.urandom(32)), modes.GCM(os.urandom(12))).encryptor()


def keystreams(make: Callable[[], CipherContext], word_bytes: int) -> Callable[[Values], Go]:
    """As many streams as an update has masks, of `word_bytes` a parameter each; nothing is done with them."""

    def ready(values: Values) -> Go:
        streams, zeros, buffer = [make() for _ in range(SITES)], bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES)

        def go() -> None:
            whole = word_bytes * len(values)
            for at in range(0, whole, CHUNK_BYTES):
                size = min(CHUNK_BYTES, whole - at)
                for one in streams:
                    one.update_into(memoryview(zeros)[:size], memoryview(buffer)[:size])

        return go

    return ready


def copy_floor(values: Values) -> Go:
    room = np.zeros_like(values)
    room.fill(1.0)  # its pages are there before the clock starts
    return lambda: np.copyto(room, values)


def add_floor(values: Values) -> Go:
    room = np.zeros_like(values)
    room.fill(1.0)
    return lambda: np.add(room, values, out=room)


# --- Flower's SecAgg+, called as its mod and workflow call it ---------------------------------------------------------

FLOWER_CLIP, FLOWER_TARGET, FLOWER_MOD, FLOWER_MAX_WEIGHT = 8.0, 1 << 22, 1 << 32, 1000.0
FLOWER_EXAMPLES = 75


@dataclass(frozen=True)
class FlowerNode:
    """What a client holds after Flower's first two stages; keys as PEM, as in its state."""

    id: int
    sk1: bytes
    pk1: bytes
    rd_seed: bytes


def flower_node(number: int) -> FlowerNode:
    private, public = generate_key_pairs()
    return FlowerNode(number, private_key_to_bytes(private), public_key_to_bytes(public), os.urandom(32))


def _pair_mask(sk1: bytes, pk1: bytes, shapes: list[tuple[int, ...]]) -> Arrays:
    shared_key = generate_shared_key(bytes_to_private_key(sk1), bytes_to_public_key(pk1))
    return list(pseudo_rand_gen(shared_key, FLOWER_MOD, shapes))


def flower_protect(me: FlowerNode, others: Sequence[FlowerNode], parameters: Arrays) -> Arrays:
    """The arithmetic of `_collect_masked_vectors`, step by step."""
    q_ratio = round(FLOWER_EXAMPLES / FLOWER_MAX_WEIGHT * FLOWER_TARGET)
    parameters = parameters_multiply(parameters, q_ratio / FLOWER_TARGET)
    quantised = factor_combine(q_ratio, list(quantize(parameters, FLOWER_CLIP, FLOWER_TARGET)))
    shapes = [array.shape for array in quantised]
    quantised = parameters_addition(quantised, list(pseudo_rand_gen(me.rd_seed, FLOWER_MOD, shapes)))
    for other in others:
        mask = _pair_mask(me.sk1, other.pk1, shapes)
        quantised = parameters_addition(quantised, mask) if me.id > other.id else parameters_subtraction(quantised, mask)
    return parameters_mod(quantised, FLOWER_MOD)


def tensors(values: NDArray[Any], most: int | None) -> Arrays:
    """The vector as arrays of at most `most` values, or as one."""
    step = most or len(values)
    return [values[at : at + step] for at in range(0, len(values), step)]


def flower_client(most: int | None) -> Callable[[Values], Go]:
    nodes = [flower_node(number) for number in range(SITES)]
    me = nodes.pop(SITES // 2)
    return lambda values: lambda: flower_protect(me, nodes, tensors(values, most))


@dataclass(frozen=True)
class FlowerRound:
    """What Flower's server holds before the unmask stage's arithmetic: the added vectors, and each node's shares."""

    nodes: Sequence[FlowerNode]
    dropped: frozenset[int]
    shares: Mapping[int, list[bytes]]
    masked: Arrays


def flower_round(nodes: Sequence[FlowerNode], dropped: frozenset[int], threshold: int, masked: Arrays) -> FlowerRound:
    """Every node that is left hands in its shares, as in Flower."""
    n, left = len(nodes), [at for at, node in enumerate(nodes) if node.id not in dropped]
    dealt = {node.id: create_shares(node.sk1 if node.id in dropped else node.rd_seed, threshold, n) for node in nodes}
    return FlowerRound(nodes, dropped, {name: [found[at] for at in left] for name, found in dealt.items()}, masked)


def flower_unmask(asked: FlowerRound) -> Arrays:
    """The arithmetic of `unmask_stage`, step by step: the mean of the vectors, weighted by examples."""
    masked, shapes = asked.masked, get_parameters_shape(asked.masked)
    active = len(asked.nodes) - len(asked.dropped)
    for node in asked.nodes:
        secret = combine_shares(asked.shares[node.id])
        if node.id not in asked.dropped:
            masked = parameters_subtraction(masked, list(pseudo_rand_gen(secret, FLOWER_MOD, shapes)))
            continue
        for other in asked.nodes:
            if other.id == node.id:
                continue
            mask = _pair_mask(secret, other.pk1, shapes)
            masked = parameters_addition(masked, mask) if node.id > other.id else parameters_subtraction(masked, mask)
    total_ratio, quantised = factor_extract(parameters_mod(masked, FLOWER_MOD))
    vectors = dequantize(list(quantised), FLOWER_CLIP, FLOWER_TARGET)
    for vector in vectors:
        vector += -(active - 1) * FLOWER_CLIP
        vector *= FLOWER_TARGET / total_ratio
    return list(vectors)


# --- homomorphic encryption -------------------------------------------------------------------------------------------


def has_ckks() -> bool:
    return importlib.util.find_spec("tenseal") is not None


def ckks_client() -> Callable[[Values], Go]:
    import tenseal

    kind = tenseal.ENCRYPTION_TYPE.SYMMETRIC
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40], encryption_type=kind)
    context.generate_relin_keys()
    context.global_scale = 2.0**40

    def encrypt(piece: Values) -> bytes:
        return bytes(tenseal.ckks_vector(context, piece * np.float64(WEIGHT)).serialize())

    def ready(values: Values) -> Go:
        def go() -> list[bytes]:
            with nothing_printed():
                return [encrypt(tensor) for tensor in tensors(values, TENSOR)]

        return go

    return ready


@contextlib.contextmanager
def nothing_printed() -> Iterator[None]:
    """TenSEAL warns on standard output, from C++, that a vector takes more than one ciphertext."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


# --- the client's paths -----------------------------------------------------------------------------------------------

MAKE: Mapping[str, Callable[[], Callable[[Values], Go]]] = {
    OURS: lambda: our_client(32, 1),
    OURS_2: lambda: our_client(32, 2),
    OURS_16: lambda: our_client(16, 1),
    OURS_16_2: lambda: our_client(16, 2),
    PART: lambda: our_part(1),
    PART_2: lambda: our_part(2),
    CHACHA: lambda: chacha_client,
    FLOWER: lambda: flower_client(None),
    FLOWER_TENSORS: lambda: flower_client(TENSOR),
    CKKS: ckks_client,
    CTR: lambda: keystreams(ctr_stream, 4),
    CTR_16: lambda: keystreams(ctr_stream, 2),
    GCM: lambda: keystreams(gcm_stream, 4),
    COPY: lambda: copy_floor,
    ADD: lambda: add_floor,
}


def sent(path: str, result: Any) -> tuple[int, int]:
    """(bytes of control, bytes of vector) that a path's result puts on the wire; a part that sends nothing has (0, 0)."""
    if path in (OURS, OURS_2, OURS_16, OURS_16_2):
        return len(result[0]), len(result[1])
    if path in (FLOWER, FLOWER_TENSORS):
        return 0, sum(len(ndarray_to_bytes(array)) for array in result)
    return (0, sum(map(len, result))) if path == CKKS else (0, 0)


def make_values(parameters: int) -> Values:
    """An update like training gives: most values within a few hundredths, all within the clip."""
    values = np.random.default_rng(1).standard_normal(parameters, dtype=np.float32)
    values *= np.float32(SPREAD)
    return values


@dataclass(frozen=True)
class Timed:
    wall_s: float
    cpu_s: float


def timed(go: Go) -> tuple[Timed, Any]:
    """Seconds of wall clock, and of processor over all threads of this process."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = go()
    return Timed(time.perf_counter() - wall, time.process_time() - cpu), result


Runs: TypeAlias = dict[str, list[Timed]]


def time_clients(paths: Sequence[str], parameters: int, repeats: int) -> Runs:
    """Every path once in each repetition; the first repetition after a small run of each."""
    values, small = make_values(parameters), make_values(WARM_UP)
    ready = {path: MAKE[path]() for path in paths}
    for path in paths:
        ready[path](small)()
    runs: Runs = {path: [] for path in paths}
    for repetition in range(repeats):
        for path in paths:
            if path == CKKS and repetition and parameters > CKKS_ONCE:
                continue
            runs[path].append(timed(ready[path](values))[0])
    return runs


# --- memory, in a process of its own ----------------------------------------------------------------------------------


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def peak_of(path: str, parameters: int) -> dict[str, float]:
    """MiB that one run adds at its highest, and the bytes that its result sends. For a fresh process."""
    values, ready = make_values(parameters), MAKE[path]()
    ready(make_values(WARM_UP))()
    go = ready(values)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts again from VmRSS
    before = _status_mib("VmRSS")
    result = go()
    after = _status_mib("VmHWM")
    control, vector = sent(path, result)
    return {"extra_mib": after - before, "control_bytes": control, "vector_bytes": vector}


def measure_peak(path: str, parameters: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--peak", path, "--sizes", str(parameters)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"memory of {path!r} was not measured:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- the server -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opening:
    """A round before its opening, as a coordinator has it on disk, with t ballots; nothing of the sites is kept."""

    context: Context
    encoded: bytes
    total: bytes
    ballots: Mapping[str, bytes]
    n: int

    def ready(self, *, threads: int) -> Go:
        """`VotePhase.close` with t ballots, then decoding to the weighted mean."""
        phase = VotePhase.decode(self.context, self.encoded, self.total)
        for site, ballot in self.ballots.items():
            phase = phase.receive(site, ballot)
        weights = WEIGHT * len(phase.survivors)

        def go() -> NDArray[np.float64]:
            mean = decode_body(phase.close(threads=threads).body, COORDINATE_CLIP, self.n)
            mean /= weights
            return mean

        return go


@dataclass(frozen=True)
class Case:
    n: int
    dropped: int
    parameters: int


def build_opening(case: Case, values: Values) -> tuple[Opening, list[Timed]]:
    """Real sites upload and vote; also what taking each upload but the first cost the coordinator (checks, digest, adding)."""
    sites = Sites(case.n, 32)
    lost = tuple(sites.sessions)[case.n // 2 :][: case.dropped]
    phase, adding = sites.open_round(len(values)), []
    for site in sites.sessions:
        if site not in lost:
            upload = sites.upload(phase, site, values, threads=2)()
            took, phase = timed(lambda phase=phase, site=site, upload=upload: phase.receive(site, *upload))
            adding.append(took)
    votes = phase.close()
    voters = list(votes.requests().items())[: sites.epoch.threshold]
    ballots = {site: sites.sessions[site].vote(request, NOW) for site, request in voters}
    return Opening(sites.context, votes.encode(), bytes(votes.total.data), ballots, case.n), adding[1:]


def build_flower(case: Case, masked: Arrays) -> FlowerRound:
    nodes = [flower_node(number) for number in range(case.n)]
    dropped = frozenset(range(case.n // 2, case.n // 2 + case.dropped))
    return flower_round(nodes, dropped, numbers.threshold(case.n, case.n // 3), masked)


def random_ring(parameters: int, most: int | None = None) -> Arrays:
    """What Flower's server has added up: its arithmetic takes the same time whatever stands in it."""
    return [np.array([7]), *tensors(np.random.default_rng(2).integers(0, FLOWER_MOD, parameters, dtype=np.int64), most)]


def flower_add(total: Arrays, received: Sequence[bytes]) -> Arrays:
    return parameters_addition(total, [bytes_to_ndarray(data) for data in received])


def time_server(case: Case, repeats: int) -> dict[str, Any]:
    """Unmasking, side by side; and what adding one more vector takes (ours with digest and signature checked)."""
    values, masked = make_values(case.parameters), random_ring(case.parameters)
    opening, adding = build_opening(case, values)
    flower = build_flower(case, masked)
    in_tensors = replace(flower, masked=random_ring(case.parameters, TENSOR))
    runs: Runs = {OURS: [], OURS_2: [], FLOWER: [], FLOWER_TENSORS: []}
    received, flower_adding = [ndarray_to_bytes(array) for array in masked], []
    for _ in range(repeats):
        runs[OURS].append(timed(opening.ready(threads=1))[0])
        runs[OURS_2].append(timed(opening.ready(threads=2))[0])
        runs[FLOWER].append(timed(lambda: flower_unmask(flower))[0])
        runs[FLOWER_TENSORS].append(timed(lambda: flower_unmask(in_tensors))[0])
        flower_adding.append(timed(lambda: flower_add(masked, received))[0])
    found = {"n": case.n, "dropped": case.dropped, "parameters": case.parameters, "rows": summary(runs, OURS)}
    pairs = [(path, base) for path in (FLOWER, FLOWER_TENSORS) for base in (OURS, OURS_2)]
    found["against"] = {f"{path} / {base}": ratios(runs, path, base) for path, base in pairs}
    found["add_one"] = {"ours": plain(adding), "flower": plain(flower_adding)}
    return found


def time_linear(parameters: int, repeats: int) -> dict[str, Any]:
    """Seconds of our opening over the number of sites, nobody lost; every n once in each repetition."""
    values = make_values(parameters)
    openings = {n: build_opening(Case(n, 0, parameters), values)[0] for n in LINEAR_SITES}
    runs: dict[int, list[Timed]] = {n: [] for n in LINEAR_SITES}
    for _ in range(repeats):
        for n, opening in openings.items():
            runs[n].append(timed(opening.ready(threads=1))[0])
    rows = [{"n": n, **plain(found), "per_site_s": plain(found)["wall_s"] / n} for n, found in runs.items()]
    few, many = rows[0]["per_site_s"], rows[-1]["per_site_s"]
    slope, fixed = np.polyfit(LINEAR_SITES, [row["wall_s"] for row in rows], 1)
    fit = {"fixed_s": float(fixed), "each_s": float(slope)}
    return {"parameters": parameters, "rows": rows, "growth_per_site": many / few, "fit": fit}


# --- is what is timed right? ------------------------------------------------------------------------------------------


def check_sums() -> None:
    """Both protocols give the mean of the same small vectors, with nobody and with one site lost. `RuntimeError` if not."""
    values = make_values(CHECKED)
    for dropped in (0, 1):
        case = Case(SITES, dropped, CHECKED)
        ours = build_opening(case, values)[0].ready(threads=1)()
        asked = build_flower(case, [])
        vectors = [
            flower_protect(node, [other for other in asked.nodes if other is not node], [values])
            for node in asked.nodes
            if node.id not in asked.dropped
        ]
        total = vectors[0]
        for vector in vectors[1:]:
            total = parameters_addition(total, vector)
        (theirs,) = flower_unmask(replace(asked, masked=parameters_mod(total, FLOWER_MOD)))
        for name, mean, limit in (("ours", ours, 1e-7), ("Flower's", theirs, 1e-4)):
            if not np.abs(mean - values).max() < limit:
                raise RuntimeError(f"{name} sum with {dropped} lost is off by {np.abs(mean - values).max():.3g}: nothing is timed")


# --- figures ----------------------------------------------------------------------------------------------------------


def plain(found: Sequence[Timed]) -> dict[str, float]:
    """Medians, in seconds."""
    return {
        "wall_s": statistics.median(one.wall_s for one in found),
        "cpu_s": statistics.median(one.cpu_s for one in found),
        "runs": len(found),
    }


def ratios(runs: Runs, path: str, base: str) -> dict[str, float]:
    """How much more time `path` takes than `base`, within each repetition: median, smallest, largest of wall, median of CPU."""
    pairs = list(zip(runs[path], runs[base], strict=False))  # CKKS may have run once only
    wall = [one.wall_s / other.wall_s for one, other in pairs]
    cpu = [one.cpu_s / max(other.cpu_s, 1e-9) for one, other in pairs]
    return {"wall": statistics.median(wall), "least": min(wall), "most": max(wall), "cpu": statistics.median(cpu)}


def summary(runs: Runs, base: str) -> dict[str, Any]:
    return {path: plain(found) | {"ratio": ratios(runs, path, base)} for path, found in runs.items()}


def measure_client(paths: Sequence[str], parameters: int, repeats: int) -> dict[str, Any]:
    """One size's rows: time, ratios, memory and wire."""
    runs = time_clients(paths, parameters, repeats)
    rows = summary(runs, OURS)
    for path in paths:
        if path not in (COPY, ADD):
            rows[path] |= measure_peak(path, parameters)
    pairs = [(path, base) for path in (FLOWER, FLOWER_TENSORS) for base in (OURS, OURS_2, PART)]
    pairs += [(OURS, CTR), (OURS_2, CTR), (PART, CTR), (OURS_16, CTR_16), (OURS_16_2, CTR_16)]
    against = {f"{path} / {base}": ratios(runs, path, base) for path, base in pairs}
    return {"parameters": parameters, "rows": rows, "against": against}


@dataclass(frozen=True)
class Section:
    """A table, for the screen and as Markdown."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: bool = True

    def show(self) -> None:
        table = Table(title=self.title, title_justify="left")
        for at, column in enumerate(self.columns):
            table.add_column(column, justify="right" if at and self.figures else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        Console(width=None if sys.stdout.isatty() else 160).print(table)

    def markdown(self) -> str:
        head = [
            f"**{self.title}**",
            "",
            _line(self.columns),
            _line(["---"] + ["---:" if self.figures else "---"] * (len(self.columns) - 1)),
        ]
        return "\n".join([*head, *map(_line, self.rows)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def seconds(value: float) -> str:
    return f"{value:.2g}" if value < 0.01 else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def spread(ratio: Mapping[str, float]) -> str:
    return f"{ratio['wall']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f}), cpu {ratio['cpu']:.2f}"


def client_section(found: Mapping[str, Any]) -> Section:
    parameters, rows = found["parameters"], []
    for path, row in found["rows"].items():
        extra, wire = row.get("extra_mib"), row.get("vector_bytes", 0)
        output = _output_mib(path, row, parameters)
        memory = "" if extra is None else f"{extra:.0f}" if output is None else f"{extra:.0f} = vector + {extra - output:.1f}"
        per_value = f"{wire / parameters:.2f} + {row['control_bytes']:.0f} B" if wire else ""
        rows.append((path, seconds(row["wall_s"]), seconds(row["cpu_s"]), spread(row["ratio"]), memory, per_value))
    columns = ("path", "wall s", "cpu s", "time / ours, median (min-max)", "extra peak MiB", "wire B/parameter + control")
    return Section(f"One site of {SITES} protects {parameters:.0e} float32", columns, tuple(rows))


def _output_mib(path: str, row: Mapping[str, float], parameters: int) -> float | None:
    """MiB of the vector that our paths return; None for the others, whose results differ."""
    if path in (PART, PART_2, CHACHA):
        return 4 * parameters / MIB
    return row["vector_bytes"] / MIB if path.startswith("ours") else None


def server_section(cases: Sequence[Mapping[str, Any]]) -> Section:
    rows = []
    for case in cases:
        name = f"{case['parameters']:.0e}, n = {case['n']}, {case['dropped']} lost"
        for path, row in case["rows"].items():
            rows.append((f"{name}: {path}", seconds(row["wall_s"]), seconds(row["cpu_s"]), spread(row["ratio"])))
        ours, flower = case["add_one"]["ours"], case["add_one"]["flower"]
        rows.append((f"{name}: taking one more vector, ours", seconds(ours["wall_s"]), seconds(ours["cpu_s"]), ""))
        rows.append((f"{name}: taking one more vector, Flower", seconds(flower["wall_s"]), seconds(flower["cpu_s"]), ""))
    columns = ("unmasking", "wall s", "cpu s", "time / ours, median (min-max)")
    return Section("The coordinator opens a round", columns, tuple(rows))


def linear_section(found: Mapping[str, Any]) -> Section:
    rows = [
        (str(row["n"]), seconds(row["wall_s"]), seconds(row["cpu_s"]), f"{1000 * row['per_site_s']:.2f}") for row in found["rows"]
    ]
    title = f"The coordinator's opening over the number of sites, {found['parameters']:.0e}, nobody lost, 1 thread"
    return Section(title, ("n", "wall s", "cpu s", "ms a site"), tuple(rows))


# --- targets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    what: str
    measured: str
    met: bool

    @property
    def row(self) -> tuple[str, str, str]:
        return self.what, self.measured, "yes" if self.met else "NO"


def client_targets(found: Mapping[str, Any]) -> list[Target]:
    """Time against Flower only for the sizes that the target is for."""
    size, against, targets = f"{found['parameters']:.0e}", found["against"], []
    for pair, ratio in against.items():
        path, base = pair.split(" / ")
        if path in (FLOWER, FLOWER_TENSORS) and found["parameters"] >= FASTER_FROM:
            targets.append(Target(f"{size}: {path} takes at least 15x the time of: {base}", spread(ratio), ratio["wall"] >= 15))
        elif base in (CTR, CTR_16):
            targets.append(Target(f"{size}: at most 1.5x its raw AES-256-CTR streams: {path}", spread(ratio), ratio["wall"] <= 1.5))
    for path, width in ((OURS, 4), (OURS_2, 4), (OURS_16, 2), (OURS_16_2, 2)):
        row = found["rows"][path]
        beyond = row["extra_mib"] - row["vector_bytes"] / MIB
        targets.append(Target(f"{size}: memory at most the vector + 8 MiB: {path}", f"vector + {beyond:.1f} MiB", beyond <= 8))
        body = (row["vector_bytes"] - 16) / found["parameters"]  # without the header's two words
        measured = f"{body:.2f} + {row['control_bytes'] + 16:.0f} bytes of control and header"
        targets.append(Target(f"{size}: {width}.0 bytes a parameter on the wire: {path}", measured, body == width))
    return targets


def server_targets(case: Mapping[str, Any]) -> list[Target]:
    name = f"{case['parameters']:.0e}, n = {case['n']}, {case['dropped']} lost"
    return [
        Target(f"{name}: {pair.replace(' / ', ' takes at least 10x the time of: ')}", spread(ratio), ratio["wall"] >= 10)
        for pair, ratio in case["against"].items()
    ]


def all_targets(result: Mapping[str, Any]) -> list[Target]:
    targets = [target for found in result["client"] for target in client_targets(found)]
    targets += [target for case in result["server"] for target in server_targets(case)]
    growth, fit = result["linear"]["growth_per_site"], result["linear"]["fit"]
    few, many = LINEAR_SITES[0], LINEAR_SITES[-1]
    what = f"linear in n: a site's share at n = {many} is at most {LINEAR}x that at n = {few}"
    measured = f"{growth:.2f}; fit {1000 * fit['fixed_s']:.1f} ms + {1000 * fit['each_s']:.2f} ms a site"
    return [*targets, Target(what, measured, growth <= LINEAR)]


# --- the whole --------------------------------------------------------------------------------------------------------


def repeats_for(parameters: int, asked: int | None, *, quick: bool) -> int:
    return asked or (3 if quick or parameters > CKKS_ONCE else 5 if parameters > 10**6 else 9)


def measure(sizes: Sequence[int], repeats: int | None, *, quick: bool) -> dict[str, Any]:
    described = machine() | {"flwr": importlib.metadata.version("flwr"), "numpy": np.__version__}
    check_sums()
    result: dict[str, Any] = {"machine": described, "quick": quick, "client": [], "server": [], "included": INCLUDED}
    for parameters in sizes:
        _tell(f"client, {parameters:.0e} parameters")
        paths = [path for path in MAKE if path != CKKS or (has_ckks() and not (quick and parameters > CKKS_ONCE))]
        result["client"].append(measure_client(paths, parameters, repeats_for(parameters, repeats, quick=quick)))
    served = [parameters for parameters in sizes if parameters <= SERVER_LIMIT] or [min(sizes)]
    for parameters in served:
        for n in SERVER_SITES[:1] if quick else SERVER_SITES:
            for dropped in (0, 1):
                _tell(f"server, {parameters:.0e} parameters, n = {n}, {dropped} lost")
                times = min(5, repeats_for(parameters, repeats, quick=quick))
                result["server"].append(time_server(Case(n, dropped, parameters), times))
    _tell("server, over the number of sites")
    result["linear"] = time_linear(served[-1], repeats_for(served[-1], repeats, quick=quick))
    result["targets"] = [dict(zip(("what", "measured", "met"), target.row, strict=True)) for target in all_targets(result)]
    return result


def _tell(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr, flush=True)


def sections(result: Mapping[str, Any]) -> list[Section]:
    targets = tuple(target.row for target in all_targets(result))
    included = tuple(INCLUDED.items())
    return [
        *map(client_section, result["client"]),
        server_section(result["server"]),
        linear_section(result["linear"]),
        Section("Targets", ("target", "measured", "met"), targets, figures=False),
        Section("What is in a row", ("path", "included"), included, figures=False),
    ]


def parsed_sizes(text: str) -> list[int]:
    """Numbers of parameters; "1e6,5e7" has two."""
    sizes = [int(float(part)) for part in text.split(",")]
    if min(sizes) < WARM_UP:
        raise argparse.ArgumentTypeError(f"a size below {WARM_UP} parameters measures nothing")
    return sizes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=parsed_sizes, default="1e6,1e7,5e7", help="parameters (default %(default)s)")
    parser.add_argument("--repeats", type=int, help="repetitions (default: 9 up to 1e6, 5 up to 1e7, 3 above)")
    parser.add_argument("--quick", action="store_true", help="3 repetitions, n = 10 at the server, no CKKS above 1e7")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--markdown", type=Path, help="also write the tables here")
    parser.add_argument("--peak", choices=tuple(MAKE), help=argparse.SUPPRESS)  # the fresh process that measures memory
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak_of(options.peak, options.sizes[0])))
        return 0
    if not has_ckks():
        print("TenSEAL is not installed, its row is left out: pip install 'wardround[bench]'")
    result = measure(options.sizes, options.repeats, quick=options.quick)
    shown = sections(result)
    for section in shown:
        section.show()
    print(machine_line(result["machine"]))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        tables = "\n".join(section.markdown() for section in shown)
        options.markdown.write_text(f"{tables}\n{machine_line(result['machine'])}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
