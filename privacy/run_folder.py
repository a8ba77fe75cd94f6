"""A coordinator's folder of one run, as somebody reads it who trusts nobody: files in, facts out, contradictions named. Pure.

Read are `plan.signed`, `roster.signed`, the journal `events.jsonl` and `receipts/`, as server/README.md describes them; nothing of
the coordinator's code is used. The journal is the coordinator's own word and carries no signature: whoever has the folder can
write another one. Events and keys of newer code are passed over, since nothing here is charged or released.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from consortium import plan as plans
from consortium import roster as rosters
from consortium.canonical import Json, decode_json
from consortium.documents import Signed, from_document
from consortium.errors import ConsortiumError
from consortium.plan import Plan, verify_plan
from consortium.roster import Roster, founders_fingerprint, verify_roster
from consortium.statement import KIND as STATEMENT
from consortium.statement import EpsilonStatement, verify_statement
from privacy.errors import PrivacyError

T = TypeVar("T")
_KEYS: Final = ["at", "data", "event", "n"]


class RunFolderError(PrivacyError):
    """A run folder that cannot be read as one: nothing is said about a run that is half understood."""


@dataclass(frozen=True)
class RunFiles:
    """The bytes of a run folder; `receipts`: file name -> bytes."""

    path: Path
    plan: bytes
    roster: bytes
    events: bytes
    receipts: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """A site that the coordinator says did not contribute: at which phase, and its refusal's code, LATE or UNREACHABLE."""

    site: str
    phase: str
    code: str


@dataclass(frozen=True)
class RunStarted:
    run_id: str
    plan_digest: bytes
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Waiting:
    site: str
    reason: str


@dataclass(frozen=True)
class EpochReady:
    number: int
    sites: tuple[str, ...]
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class RoundAttempt:
    round: int
    purpose: str
    model_digest: bytes


@dataclass(frozen=True)
class RoundDone:
    round: int
    purpose: str
    survivors: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class RoundFailed:
    round: int
    purpose: str
    code: str
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True)
class Published:
    """What a site published of its own ledger, as the journal has it: of all its runs, up to entry `entries` - 1."""

    site: str
    delta: float
    exposed: float
    entries: int
    ledger_head: bytes


@dataclass(frozen=True)
class RunFinished:
    model_digest: bytes


@dataclass(frozen=True)
class RunStopped:
    code: str


Event: TypeAlias = RunStarted | Waiting | EpochReady | RoundAttempt | RoundDone | RoundFailed | Published | RunFinished | RunStopped
_EVENTS: Final[Mapping[str, type[Event]]] = {
    "run-started": RunStarted,
    "waiting": Waiting,
    "epoch-ready": EpochReady,
    "round-attempt": RoundAttempt,
    "round-done": RoundDone,
    "round-failed": RoundFailed,
    "epsilon-published": Published,
    "run-finished": RunFinished,
    "run-stopped": RunStopped,
}


@dataclass(frozen=True)
class Asked:
    """A round that was begun with the sites of its epoch: each of them may have been charged for it."""

    round: int
    purpose: str
    model_hash: bytes
    sites: tuple[str, ...]
    at: str


@dataclass(frozen=True)
class Ended:
    """How a round ended. `code` is empty and `survivors` are in the sum, or it opened nothing for the reason `code`."""

    round: int
    purpose: str
    survivors: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    code: str
    at: str

    @property
    def opened(self) -> bool:
        return not self.code


@dataclass(frozen=True)
class Refused:
    """A site that kept the run waiting or stayed out of an epoch, and its reason's code, when first seen."""

    at: str
    site: str
    code: str


@dataclass(frozen=True)
class Proofs:
    """Which sites' own signatures stand under each opened round, and why records prove nothing (`wardround-audit round`)."""

    survivors: Mapping[int, tuple[str, ...]]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ServerRun:
    """One run as its coordinator tells it. `vouched`: plan and roster rest on a founders' fingerprint that the reader was told;
    otherwise on this folder alone. `flaws`: where the folder contradicts itself. `proofs`: None where records were not opened.
    """

    path: Path
    plan: Plan
    roster: Roster
    vouched: bool
    asked: Mapping[int, Asked]
    ended: Mapping[int, Ended]
    refused: tuple[Refused, ...]
    published: tuple[Published, ...]
    state: str
    started_at: str
    last_at: str
    flaws: tuple[str, ...]
    proofs: Proofs | None = None

    @property
    def run_id(self) -> str:
        return self.plan.run_id

    @property
    def opened(self) -> tuple[Ended, ...]:
        """The rounds that opened a sum, in order."""
        return tuple(self.ended[number] for number in sorted(self.ended) if self.ended[number].opened)


@dataclass
class _Story:
    """The journal, folded while it is read."""

    asked: dict[int, Asked] = field(default_factory=dict)
    ended: dict[int, Ended] = field(default_factory=dict)
    refused: dict[tuple[str, str], Refused] = field(default_factory=dict)
    published: list[Published] = field(default_factory=list)
    flaws: list[str] = field(default_factory=list)
    epoch: tuple[str, ...] = ()
    state: str = "new"
    started_at: str = ""
    last_at: str = ""

    def take(self, number: int, at: str, event: Event, plan: Plan) -> None:
        self.last_at = at
        match event:
            case RunStarted(run_id, digest, _):
                self.state, self.started_at = "running", at
                if (run_id, digest) != (plan.run_id, plan.digest):
                    self.flaws.append(f"journal line {number} starts run {run_id} of plan {digest.hex()}: another plan's journal")
            case Waiting(site, reason) if reason:
                self._refuse(at, site, reason)
            case EpochReady(sites=sites, dropped=dropped):
                self.epoch = sites
                for drop in dropped:
                    self._refuse(at, drop.site, drop.code)
            case Published():
                self.published.append(event)
            case RunFinished():
                self.state = "finished"
            case RunStopped(code):
                self.state = f"stopped ({code})"
            case _:
                self._take_round(number, at, event)

    def _take_round(self, number: int, at: str, event: Event) -> None:
        match event:
            case RoundAttempt(asked, purpose, model_hash):
                if asked in self.asked:
                    self.flaws.append(f"journal line {number} asks for round {asked} a second time: numbers only rise")
                self.asked[asked] = Asked(asked, purpose, model_hash, self.epoch, at)
            case RoundDone():
                self._end(number, Ended(event.round, event.purpose, event.survivors, event.dropped, "", at))
            case RoundFailed():
                self._end(number, Ended(event.round, event.purpose, (), event.dropped, event.code or "UNNAMED", at))

    def _refuse(self, at: str, site: str, code: str) -> None:
        self.refused.setdefault((site, code), Refused(at, site, code))

    def _end(self, number: int, ended: Ended) -> None:
        asked = self.asked.get(ended.round)
        if asked is None:
            self.flaws.append(f"journal line {number} ends round {ended.round}, which no line before it asks for")
        elif asked.purpose != ended.purpose:
            self.flaws.append(f"journal line {number} ends round {ended.round} to {ended.purpose}, it was begun to {asked.purpose}")
        elif strangers := sorted(set(ended.survivors) - set(asked.sites)):
            self.flaws.append(f"round {ended.round} counts {', '.join(strangers)}, who were not in its epoch")
        if ended.round in self.ended:
            self.flaws.append(f"journal line {number} ends round {ended.round} a second time")
        self.ended[ended.round] = ended


def read_run(files: RunFiles, founders: str | None = None) -> ServerRun:
    """The run in these files. With `founders`, told by telephone, the roster must be theirs.

    Raises `RunFolderError` for files that are damaged, cut or of another kind; what is whole and contradicts itself is a flaw.
    """
    signed_plan, signed_roster = _signed(files, files.plan, plans.KIND), _signed(files, files.roster, rosters.KIND)
    plan, roster = _document(files, signed_plan, Plan), _document(files, signed_roster, Roster)
    unsigned = _unsigned(signed_plan, signed_roster, roster, founders)
    receipts, foreign = _receipts(files, plan, roster)
    story = _Story()
    for number, at, event in _events(files):
        story.take(number, at, event, plan)
    return ServerRun(
        path=files.path,
        plan=plan,
        roster=roster,
        vouched=founders is not None and not unsigned,
        asked=story.asked,
        ended=story.ended,
        refused=tuple(story.refused.values()),
        published=(*story.published, *receipts),
        state=story.state,
        started_at=story.started_at,
        last_at=story.last_at,
        flaws=(*unsigned, *foreign, *story.flaws),
    )


def with_proofs(run: ServerRun, proofs: Proofs) -> ServerRun:
    """The same run after its records were opened again."""
    return replace(run, proofs=proofs)


def _signed(files: RunFiles, data: bytes, kind: str) -> Signed:
    try:
        return Signed.decode(data, kind)
    except ConsortiumError as error:
        raise RunFolderError(f"{files.path}/{kind}.signed: {error}: damaged, or of another kind") from error


def _document(files: RunFiles, signed: Signed, kind: type[T]) -> T:
    try:
        return signed.document(kind)
    except ConsortiumError as error:
        raise RunFolderError(f"{files.path}/{signed.kind}.signed cannot be read: {error}") from error


def _unsigned(plan: Signed, roster: Signed, written: Roster, founders: str | None) -> list[str]:
    """Why plan or roster are not to be relied on. Without a fingerprint, the roster must fit the founders it names."""
    flaws = []
    try:
        verify_roster(roster, founders or founders_fingerprint(written.founders, written.founders_required))
    except ConsortiumError as error:
        flaws.append(f"roster.signed: {error}")
    try:
        verify_plan(plan, written)
    except ConsortiumError as error:
        flaws.append(f"plan.signed: {error}")
    return flaws


def _events(files: RunFiles) -> Iterable[tuple[int, str, Event]]:
    """Line number, time and event of every known line; what follows the last line feed is a torn write."""
    for number, line in enumerate(files.events.split(b"\n")[:-1], 1):
        place = f"{files.path}/events.jsonl line {number}"
        try:
            value = decode_json(line)
            if not isinstance(value, dict) or sorted(value) != _KEYS or value["n"] != number:
                raise RunFolderError(f"{place}: not event {number} of a journal: lines were removed, added or reordered")
            name, at, data = value["event"], value["at"], value["data"]
            if not isinstance(name, str) or not isinstance(at, str) or not isinstance(data, dict):
                raise RunFolderError(f"{place}: event and at must be texts and data an object: line altered")
            if name in _EVENTS:
                yield number, at, _event(_EVENTS[name], data)
        except ConsortiumError as error:
            raise RunFolderError(f"{place}: {error}: line altered") from error


def _event(kind: type[T], data: Mapping[str, Json]) -> T:
    """The event with the keys that are read here; others beside them are newer code's."""
    names = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]  # every value of _EVENTS is a dataclass
    return from_document(kind, {name: value for name, value in data.items() if name in names})


def _receipts(files: RunFiles, plan: Plan, roster: Roster) -> tuple[list[Published], list[str]]:
    """Signed statements in `receipts/`, each checked with its site's key on the roster, and why others are none."""
    found, foreign = [], []
    for name, data in sorted(files.receipts.items()):
        try:
            found.append(_statement(data, plan, roster))
        except ConsortiumError as error:
            foreign.append(f"receipts/{name} is no statement of a site of this run: {error}")
    return found, foreign


def _statement(data: bytes, plan: Plan, roster: Roster) -> Published:
    signed = Signed.decode(data, STATEMENT)
    site = signed.document(EpsilonStatement).site
    made = verify_statement(signed, site, roster.member(site).identity_key)
    if made.plan_digest != plan.digest:
        raise ConsortiumError(f"it is about plan {made.plan_digest.hex()[:16]}")
    return Published(made.site, made.delta, made.epsilon_exposed, made.entries, made.ledger_head)
