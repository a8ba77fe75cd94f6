"""The finished model as files anybody can open: arrays by name, a description, the card. Nothing in them runs as code.

model/weights.npz   one float32 array per tensor, read with numpy.load(..., allow_pickle=False)
model/model.json    task, model, columns, tensors in order, privacy terms, digests
model/card.md       the model card
model/result.json   of a run of sums: what it found
"""

import io
import math
import shutil
from pathlib import Path

import numpy as np

from consortium.canonical import Json, encode_json
from consortium.documents import to_document
from consortium.plan import Plan
from server import strategy as strategies
from server.card import model_card, privacy_line
from server.checkpoint import latest_checkpoint, model_digest
from server.errors import ServerError
from server.folder import RunFolder, write_durably
from server.model import Model, released_model, tensors
from server.state import RunState, read_state
from server.sums import result_bytes, result_of

FORMAT = "wardround/model/1"


def export_model(folder: RunFolder, target: Path | None = None) -> Path:
    """Write the model of the newest checkpoint into the run folder's `model/` (or `target`); returns the directory.

    Raises `ServerError` where there is no checkpoint yet. Calling it again writes the same bytes.
    """
    plan = folder.plan()
    model = final_model(folder, plan)
    directory = target or folder.model
    directory.mkdir(parents=True, exist_ok=True)
    state = read_state(folder.path)
    card = model_card(plan, state, colluders=folder.roster().colluders, model=model)
    write_durably(directory / "weights.npz", weights_file(plan, model))
    write_durably(directory / "model.json", encode_json(describe(plan, model, state)))
    write_durably(directory / "card.md", card.encode())
    if (result := result_of(folder, plan)) is not None:
        write_durably(directory / "result.json", result_bytes(result))
    return directory


def final_model(folder: RunFolder, plan: Plan) -> Model:
    """What the run releases as things stand: the strategy's released weights at the newest whole checkpoint."""
    found = latest_checkpoint(folder.checkpoints, plan.digest, model_size=plan.model_size)
    if found.checkpoint is None:
        raise ServerError(f"{folder.path} holds no usable checkpoint; nothing to export yet{_because(found.skipped)}")
    strategy = strategies.build(plan.strategy.name, dict(plan.strategy.options))
    return released_model(plan, strategy, found.checkpoint.state, found.checkpoint.model)


def _because(skipped: tuple[str, ...]) -> str:
    return f" ({'; '.join(skipped)})" if skipped else ""


def weights_file(plan: Plan, model: Model) -> bytes:
    """The bytes of an .npz; equal models give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(tensors(plan, model)))  # type: ignore[arg-type]  # names of tensors, not numpy's own options
    return buffer.getvalue()


def describe(plan: Plan, model: Model, state: RunState | None = None) -> Json:
    """Everything a program needs to run the model, how it did on held-out patients, and what was promised about it."""
    return {
        "format": FORMAT,
        "task": to_document(plan.task),
        "model": to_document(plan.model),
        "model_digest": model_digest(model).hex(),
        "plan_digest": plan.digest.hex(),
        "run_id": plan.run_id,
        "code_version": plan.code_version,
        "privacy": to_document(plan.privacy),
        "privacy_in_words": privacy_line(plan),
        "statistics_doubt": _doubt(plan),
        "evaluation": _evaluation(plan, state) if state else None,
    }


def _doubt(plan: Plan) -> float:
    """Standard error that noise adds to the mean of an input of everybody, as a share of the input's public range."""
    terms, declared = plan.privacy, sum(participant.declared_patients for participant in plan.participants)
    return terms.describe_noise * terms.describe_clip * math.sqrt(len(plan.participants)) / max(declared, 1)


def _evaluation(plan: Plan, state: RunState) -> Json:
    """What the last evaluation of the released model opened, or nothing: a site calibrates predictions with it."""
    last = next((done for done in reversed(state.done) if done.purpose == "evaluate" and done.histogram), None)
    if last is None:
        return None
    return {
        "round": last.round,
        "sites": len(last.survivors),
        "histogram": list(last.histogram),
        "noise_std": plan.privacy.evaluate_noise * math.sqrt(len(last.survivors)),
        "figures": dict(last.metrics),
    }


def copy_export(folder: RunFolder, target: Path) -> Path:
    """The exported files under `target`, which must not exist yet. Raises `ServerError`."""
    if target.exists():
        raise ServerError(f"{target} exists: name a folder that does not")
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    export_model(folder, draft).replace(target)
    return target
