"""What a site keeps of its own about finished models: personal models, and every use of its test half. It stays here, 0600."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from client.errors import SiteError
from client.files import private_folder, sync_folder, write_atomic
from client.home import Home
from client.personal import Candidate
from consortium.canonical import Json, encode_json
from secagg.model import model_digest
from tasks.exported import MODEL_FILE, PERSONAL_FORMAT, WEIGHTS_FILE, Exported, named_tensors

MUST_STAY = (
    "This model was fitted to patients of this hospital without any noise: it holds traces of them and MUST NOT LEAVE the hospital."
)


def personal_folder(home: Home, run_id: str) -> Path:
    """Where the site's own version of a run's model is, if there is one."""
    return home.root / "personal" / run_id


def write_personal(home: Home, exported: Exported, made: Candidate, *, about: Mapping[str, Json], evaluation: Json) -> Path:
    """The personal model as files that `tasks.exported` reads; weights first, so that half of it is refused by its digest.

    `evaluation`: how it did on this site's validation half, in the form of an exported model's.
    """
    private_folder(home.root / "personal")
    folder = private_folder(personal_folder(home, exported.run_id))
    buffer = io.BytesIO()
    np.savez(buffer, **named_tensors(exported.model, exported.buffers, made.parameters))  # type: ignore[arg-type]  # names of tensors
    digest = model_digest([exported.buffers.astype("<f4").tobytes(), made.parameters.astype("<f4").tobytes()])
    facts: dict[str, Json] = {
        **exported.facts,
        "format": PERSONAL_FORMAT,
        "model_digest": digest.hex(),
        "privacy_in_words": "NOT PRIVATE: fitted to this hospital's patients without noise, it must not leave",
        "evaluation": evaluation,
        "personal": {"of": exported.digest.hex(), "kind": made.kind, "spread": made.spread, "warning": MUST_STAY, **about},
    }
    write_atomic(folder / WEIGHTS_FILE, buffer.getvalue())
    write_atomic(folder / MODEL_FILE, encode_json(facts))
    return folder


def remove_personal(home: Home, run_id: str) -> bool:
    """Take an earlier personal model of the run away; whether there was one."""
    folder = personal_folder(home, run_id)
    found = (folder / MODEL_FILE).exists()
    for name in (MODEL_FILE, WEIGHTS_FILE):
        (folder / name).unlink(missing_ok=True)
    return found


def tests_of(home: Home, digest: bytes) -> int:
    """How often the test half was used for the model with this digest."""
    try:
        lines = _log(home).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return 0
    try:
        return sum(json.loads(line)["model_digest"] == digest.hex() for line in lines)
    except (ValueError, KeyError, TypeError) as error:
        raise SiteError(f"{_log(home)} is damaged: keep a copy, and remove the line that is no JSON") from error


def note_test(home: Home, exported: Exported, *, command: str, time: str) -> None:
    """One more use of the test half, on disk before a figure is shown."""
    entry = {"time": time, "command": command, "run_id": exported.run_id, "model_digest": exported.digest.hex()}
    handle = os.open(_log(home), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "ab") as file:
        file.write(json.dumps(entry, sort_keys=True).encode("utf-8") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(home.root)


def _log(home: Home) -> Path:
    return home.root / "tests.jsonl"
