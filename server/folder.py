"""Where a run keeps its files, and the two signed documents that every one of them is bound to.

plan.signed  roster.signed      what the run may do, and who is in it
events.jsonl                    the truth about what happened (`server.journal`)
checkpoints/                    the model after each round (`server.checkpoint`)
records/                        the messages of every opened round: with the masked vectors, anybody can open it again
vectors/                        those masked vectors, where the lead asked to keep them: `round-0000000003/SITE.y`
open/                           the epoch in force and the round that is being opened, for a coordinator that takes over
model/  report.html             made at the end, from the files above
phantoms.json                   what the model makes of invented patients; may be deleted at any time
live.json                       what a coordinator waits for right now, for `status`; may be deleted at any time
mirror.json  mirror.log         state of the tracking mirror; may be deleted at any time
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from consortium import plan as plans
from consortium import roster as rosters
from consortium.canonical import Bytes
from consortium.documents import Signed
from consortium.errors import ConsortiumError
from consortium.plan import Plan
from consortium.roster import Roster
from server.errors import FolderError


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run; the folder belongs to this program alone."""

    path: Path

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.signed"

    @property
    def roster_file(self) -> Path:
        return self.path / "roster.signed"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def records(self) -> Path:
        return self.path / "records"

    @property
    def vectors(self) -> Path:
        return self.path / "vectors"

    @property
    def open(self) -> Path:
        return self.path / "open"

    @property
    def live(self) -> Path:
        return self.path / "live.json"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def phantoms(self) -> Path:
        return self.path / "phantoms.json"

    @property
    def mirror_state(self) -> Path:
        return self.path / "mirror.json"

    @property
    def mirror_log(self) -> Path:
        return self.path / "mirror.log"

    @property
    def keeps_vectors(self) -> bool:
        """Whether the masked vectors of every round are kept, so that an auditor can add them up again."""
        return self.vectors.is_dir()

    def keep_vector(self, round_number: int, site: str, y: Bytes) -> None:
        folder = kept_folder(self.vectors / f"round-{round_number:010d}")
        keep(folder / f"{site}.y", y)

    def signed_plan(self) -> Signed:
        return _signed(self.plan_file, plans.KIND)

    def signed_roster(self) -> Signed:
        return _signed(self.roster_file, rosters.KIND)

    def plan(self) -> Plan:
        """The plan as written, for display and tracking; whoever acts on it verifies `signed_plan` first."""
        return self.signed_plan().document(Plan)

    def roster(self) -> Roster:
        """The roster as written; see `plan`."""
        return self.signed_roster().document(Roster)


def create_folder(path: Path, signed_plan: Signed, signed_roster: Signed) -> RunFolder:
    """A new run folder, or the existing one of this very plan. Raises `FolderError` if another plan's run lies there."""
    folder = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    if folder.plan_file.exists():
        if (found := folder.signed_plan().digest) != signed_plan.digest:
            raise FolderError(f"{path} holds run {found.hex()[:16]}, not {signed_plan.digest.hex()[:16]}: name another folder")
        return folder
    for part in (folder.checkpoints, folder.records):
        part.mkdir(exist_ok=True)
    write_durably(folder.roster_file, signed_roster.encode())
    write_durably(folder.plan_file, signed_plan.encode())
    return folder


def open_folder(path: Path) -> RunFolder:
    """The folder of an existing run; raises `FolderError` where there is none."""
    folder = RunFolder(path)
    if not folder.plan_file.is_file():
        raise FolderError(f"{path} holds no run (no {folder.plan_file.name}): give the folder that run or simulate named")
    return folder


def write_durably(path: Path, data: Bytes | Iterable[Bytes]) -> None:
    """All of `data` under `path` or, after a crash at any instant, what was there before. Raises OSError.

    What comes in pieces is written piece by piece, never held as one.
    """
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        for part in [data] if isinstance(data, bytes | bytearray | memoryview) else data:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_directory(path.parent)


def keep(path: Path, data: Bytes) -> None:
    """`write_durably` of what a run cannot go on without; raises `FolderError` where the disk refuses."""
    try:
        write_durably(path, data)
    except OSError as error:
        raise FolderError(f"cannot write {path}: {error.strerror}; free some space and resume") from error


def kept_folder(path: Path) -> Path:
    """`path`, made if absent; raises `FolderError` where the disk refuses."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise FolderError(f"cannot make {path}: {error.strerror}; free some space and resume") from error
    return path


def sync_directory(path: Path) -> None:
    """A new or renamed file survives a power cut only after its directory was synchronised too."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _signed(path: Path, kind: str) -> Signed:
    try:
        return Signed.decode(path.read_bytes(), kind)
    except OSError as error:
        raise FolderError(f"cannot read {path}: {error.strerror}") from error
    except ConsortiumError as error:
        raise FolderError(f"{path} is damaged: {error}") from error
