"""The model of a run on invented patients: what may be shown where no patient's picture ever comes, kept in the run's folder.

What is kept is bound to the model, to the plan's choices and to the invented hospitals; anything else there is made anew. Nothing
of a site enters: the same model gives the same trial whatever the sites hold.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from consortium.canonical import Json, decode_json, encode_json
from consortium.documents import to_document
from consortium.errors import ConsortiumError
from consortium.plan import Plan
from server.checkpoint import model_digest
from server.errors import ServerError
from server.export import final_model
from server.folder import RunFolder, write_durably
from server.model import Model
from tasks.errors import TaskError
from tasks.imaging.task import ShownOnPhantoms
from tasks.registry import LOAD_ERRORS, find_task
from tasks.run_options import run_options

if TYPE_CHECKING:  # torch and nibabel are for those who try a model
    from torch import nn

    from tasks.imaging.invented import Hospital
    from tasks.imaging.results import Session
    from tasks.imaging.store import Scan

FORMAT: Final = "wardround/phantoms/1"
SLICES: Final = 1  # of a session: the one with most lesion
FAILURES: Final = (*LOAD_ERRORS, ServerError, ConsortiumError, MemoryError)  # of a network, a checkpoint or a disk of any kind

Done = Callable[[int, int], None]  # patients tried, of how many


@dataclass(frozen=True)
class Trial:
    """What the model with `digest` (hexadecimal) made of every invented session that could be used."""

    digest: str
    sessions: tuple[Session, ...] = field(repr=False)
    unusable: int = 0


@dataclass(frozen=True)
class Untried:
    """Why there is no trial, in a sentence."""

    why: str


def shown_task(plan: Plan) -> ShownOnPhantoms | None:
    """The installed task of a plan, if its models can be tried on invented patients."""
    try:
        task = find_task(plan.task.name)
    except TaskError:
        return None
    return task if isinstance(task, ShownOnPhantoms) and task.version == plan.task.version else None


def known_trial(folder: RunFolder, plan: Plan) -> Trial | None:
    """What is kept of the run's model as it is now; None where nothing fits."""
    task = shown_task(plan)
    if task is None or not folder.phantoms.is_file():
        return None
    try:
        model = final_model(folder, plan)
        return _kept(folder, _key(plan, model, _hospitals(task, plan)))
    except FAILURES:  # the page says that the model was not tried
        return None


def tried(folder: RunFolder, plan: Plan, done: Done = lambda _tried, _all: None) -> Trial | Untried | None:
    """The kept trial, or a new one that is kept; None for a task without invented patients. A model, disk or installation that
    cannot be used is said, never raised."""
    task = shown_task(plan)
    if task is None:
        return None
    try:
        model = final_model(folder, plan)
        hospitals = _hospitals(task, plan)
        key = _key(plan, model, hospitals)
        if (kept := _kept(folder, key)) is not None:
            return kept
        trial = _trial(task, plan, model, hospitals, done)
    except FAILURES as error:
        return Untried(str(error) or type(error).__name__)  # want of memory often has no words
    _keep(folder, key, trial)
    return trial


def _hospitals(task: ShownOnPhantoms, plan: Plan) -> tuple[Hospital, ...]:
    return task.phantoms(run_options(dict(plan.model.options)).model, plan.task.columns)


def _key(plan: Plan, model: Model, hospitals: tuple[Hospital, ...]) -> str:
    """All that a trial follows from. The plan itself is not in it: the same model of another run gives the same trial."""
    chosen = encode_json({"format": FORMAT, "task": to_document(plan.task), "model": to_document(plan.model)})
    return hashlib.sha256(chosen + model_digest(model) + repr(hospitals).encode()).hexdigest()


def _trial(task: ShownOnPhantoms, plan: Plan, model: Model, hospitals: tuple[Hospital, ...], done: Done) -> Trial:
    from tasks.imaging.errors import ImageError
    from tasks.imaging.results import Session
    from tasks.imaging.segmented import segmented

    network, options = _network(task, plan, model), run_options(dict(plan.model.options)).model
    sessions, reasons, total = list[Session](), list[str](), sum(len(each.loads_ml) for each in hospitals)
    with tempfile.TemporaryDirectory(prefix="wardround-phantoms-") as scratch:
        for number, (hospital, scans) in enumerate(_patients(hospitals, Path(scratch)), start=1):
            where = f"{hospital.name.replace('-', ' ')}: {hospital.about}"
            for scan in task.readable(scans):
                try:
                    found, _ = segmented(task, network, scan, options, plan.task.columns, shown=True, slices=SLICES)
                except ImageError as error:
                    reasons.append(f"{error.code}: {error.sentence}")
                else:
                    name = f"{hospital.name} {scan.patient}"
                    sessions.append(Session(f"{name} day {scan.day}", name, where, found))
            done(number, total)
    if not sessions:
        raise ServerError(f"no invented session could be used ({reasons[0] if reasons else 'there is none'})")
    return Trial(model_digest(model).hex(), tuple(sessions), len(reasons))


def _patients(hospitals: tuple[Hospital, ...], scratch: Path) -> Iterator[tuple[Hospital, tuple[Scan, ...]]]:
    return ((hospital, scans) for hospital in hospitals for scans in hospital.patients(scratch / hospital.name))


def _network(task: ShownOnPhantoms, plan: Plan, model: Model) -> nn.Module:
    from tasks.exported import Exported, model_of

    buffers, parameters = model[: plan.n_buffers], model[plan.n_buffers :]
    digest = model_digest(model)
    exported = Exported(plan.run_id, plan.task, plan.model, plan.privacy, buffers, parameters, digest, personal=False, facts={})
    return model_of(exported, task)


def _keep(folder: RunFolder, key: str, trial: Trial) -> None:
    """Best effort: a run folder that cannot be written to costs the time of another trial."""
    content = encode_json(
        {"digest": trial.digest, "unusable": trial.unusable, "sessions": [_plain(each) for each in trial.sessions]}
    )
    head = encode_json({"format": FORMAT, "key": key, "sha256": hashlib.sha256(content).hexdigest()})
    try:
        write_durably(folder.phantoms, head + b"\n" + content + b"\n")
    except OSError:
        return


def _kept(folder: RunFolder, key: str) -> Trial | None:
    """None for a file of another model, one that is damaged, or none at all."""
    try:
        head, content, rest = folder.phantoms.read_bytes().split(b"\n")
        wanted = {"format": FORMAT, "key": key, "sha256": hashlib.sha256(content).hexdigest()}
        if rest or decode_json(head) != wanted:
            return None
        found: Any = decode_json(content)
        return Trial(str(found["digest"]), tuple(_session(each) for each in found["sessions"]), int(found["unusable"]))
    except (OSError, ConsortiumError, ValueError, LookupError, TypeError):
        return None


def _plain(session: Session) -> Json:
    pictures: list[Json] = [[words, base64.b64encode(png).decode("ascii")] for words, png in session.found.pictures]
    said: dict[str, Json] = {
        "name": session.name,
        "patient": session.patient,
        "scanner": session.scanner,
        "drawn": session.found.drawn,
    }
    scores = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(session.scores).items()}
    return {**said, "pictures": pictures, "scores": scores}


def _session(plain: Any) -> Session:
    from tasks.imaging.results import Segmented, Session
    from tasks.imaging.segmentation_scores import ScanScores

    scores: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain["scores"].items()}
    pictures = tuple((str(words), base64.b64decode(png, validate=True)) for words, png in plain["pictures"])
    found = Segmented(ScanScores(**scores), bool(plain["drawn"]), pictures)
    return Session(plain["name"], plain["patient"], plain["scanner"], found)
