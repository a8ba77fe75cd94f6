"""What the journal says about a run, folded into one value: the coordinator resumes from it, the reports print it."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from server.folder import RunFolder
from server.journal import (
    Checkpointed,
    Dropped,
    Entry,
    EpochAsked,
    EpochReady,
    EpsilonPublished,
    Found,
    RoundAttempt,
    RoundDone,
    RoundFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    VoteAsked,
    Waiting,
    read_entries,
)

SUSPECT_ROUNDS = 10
FOR_GOOD = frozenset({"BUDGET", "LIMIT", "POLICY", "DECLINED", "MODEL", "TASK"})  # the next round gets the same answer

Phase = Literal["new", "running", "finished", "stopped"]


@dataclass(frozen=True)
class Asked:
    """A round that was begun and the sites of its epoch: each of them may have been charged for it."""

    round: int
    purpose: str
    sites: tuple[str, ...]


@dataclass(frozen=True)
class Left:
    """How a site left: at `phase` (keys, kem, update or vote), with a `code` of `FOR_GOOD`. `round`: the one it refused, or the
    last one begun before it refused to join an epoch."""

    round: int
    phase: str
    code: str


@dataclass(frozen=True)
class RunState:
    """`attempts` counts rounds begun, by purpose: the plan's maxima are about these, not about rounds that ended well.

    `left`: the sites that refused for good and are in no epoch that began since, also if the run ended before there was one.
    """

    phase: Phase = "new"
    run_id: str = ""
    plan_digest: bytes = b""
    sites: tuple[str, ...] = ()
    started_at: str = ""
    last_at: str = ""
    events: int = 0
    last_epoch: int = 0
    epoch_sites: tuple[str, ...] = ()
    threshold: int = 0
    last_attempted: int = 0
    last_attempt: RoundAttempt | None = None
    last_vote: VoteAsked | None = None
    attempts: Mapping[str, int] = field(default_factory=dict)
    asked: tuple[Asked, ...] = ()
    done: tuple[RoundDone, ...] = ()
    done_at: tuple[str, ...] = ()
    failed: tuple[RoundFailed, ...] = ()
    found: tuple[Found, ...] = ()
    waiting: Mapping[str, str] = field(default_factory=dict)
    left: Mapping[str, Left] = field(default_factory=dict)
    checkpoint: Checkpointed | None = None
    published: Mapping[str, EpsilonPublished] = field(default_factory=dict)
    resumes: int = 0
    seconds: float = 0.0
    stopped: str = ""
    model_digest: bytes = b""

    @property
    def next_round(self) -> int:
        """Never a number that a request may already have carried."""
        return self.last_attempted + 1

    @property
    def next_epoch(self) -> int:
        return self.last_epoch + 1

    @property
    def unfinished(self) -> RoundAttempt | None:
        """The round that was begun last, if the journal does not say how it ended."""
        last = self.last_attempt
        ended = {done.round for done in self.done} | {failed.round for failed in self.failed}
        return None if last is None or last.round in ended else last

    @property
    def suspects(self) -> Mapping[str, int]:
        """Dealers whose shares kept a round shut -> the last such round: their uploads are left out where enough others came.

        A voter can frame a dealer, so a suspicion ends: after `SUSPECT_ROUNDS`, times how often the site was blamed.
        """
        blamed: dict[str, list[int]] = {}
        for failed in self.failed:
            for drop in failed.dropped:
                if drop.phase == "deal":
                    blamed.setdefault(drop.site, []).append(failed.round)
        return {
            site: rounds[-1] for site, rounds in blamed.items() if self.last_attempted <= rounds[-1] + SUSPECT_ROUNDS * len(rounds)
        }

    @property
    def last_done(self) -> int:
        return self.done[-1].round if self.done else 0

    def completed(self, purpose: str) -> int:
        """Rounds of this purpose that opened a sum."""
        return sum(done.purpose == purpose for done in self.done)

    def participation(self) -> Mapping[str, int]:
        """Opened rounds that each site contributed to; sites without any are listed with 0."""
        counts = Counter(site for done in self.done for site in done.survivors)
        return {site: counts[site] for site in self.sites}


def read_state(run_dir: Path) -> RunState:
    """The state of the run in this folder; raises `JournalError` on a damaged journal."""
    return fold(read_entries(RunFolder(run_dir).events))


def fold(entries: Iterable[Entry]) -> RunState:
    state = RunState()
    for entry in entries:
        state = advance(state, entry)
    return state


def advance(state: RunState, entry: Entry) -> RunState:
    """The state after one more event: a coordinator need not read its own journal again."""
    return replace(_after(state, entry), events=entry.n, last_at=entry.at)


def _after(state: RunState, entry: Entry) -> RunState:
    match entry.event:
        case RunStarted(run_id, plan_digest, sites):
            return replace(state, phase="running", run_id=run_id, plan_digest=plan_digest, sites=sites, started_at=entry.at)
        case RunResumed():
            return replace(state, phase="running", stopped="", waiting={}, resumes=state.resumes + 1)
        case Waiting(site, reason):
            others = {name: why for name, why in state.waiting.items() if name != site}
            waiting = {**others, site: reason} if reason else others
            back = () if reason else (site,)
            return replace(state, waiting=waiting, left=_left(state, (Dropped(site, "keys", reason),), back))
        case EpochAsked(number):
            return replace(state, last_epoch=max(state.last_epoch, number))
        case EpochReady(_, sites, threshold, dropped):
            return replace(state, epoch_sites=sites, threshold=threshold, waiting={}, left=_left(state, dropped, sites))
        case EpsilonPublished(site):
            return replace(state, published={**state.published, site: entry.event})
        case RunFinished(model_digest, seconds):
            return replace(state, phase="finished", model_digest=model_digest, seconds=seconds, waiting={})
        case RunStopped(code):
            return replace(state, phase="stopped", stopped=code)
        case _:
            return _after_round(state, entry)


def _after_round(state: RunState, entry: Entry) -> RunState:
    match entry.event:
        case RoundAttempt(number, purpose):
            attempts = {**state.attempts, purpose: state.attempts.get(purpose, 0) + 1}
            asked = (*state.asked, Asked(number, purpose, state.epoch_sites))
            latest = max(state.last_attempted, number)
            return replace(state, last_attempted=latest, last_attempt=entry.event, attempts=attempts, asked=asked)
        case VoteAsked():
            return replace(state, last_vote=entry.event)
        case Found():
            return replace(state, found=(*state.found, entry.event))
        case RoundDone():
            left = _left(state, entry.event.dropped)
            return replace(state, done=(*state.done, entry.event), done_at=(*state.done_at, entry.at), left=left)
        case RoundFailed():
            return replace(state, failed=(*state.failed, entry.event), left=_left(state, entry.event.dropped))
        case Checkpointed():
            return replace(state, checkpoint=entry.event)
    return state


def _left(state: RunState, dropped: Iterable[Dropped], back: Collection[str] = ()) -> Mapping[str, Left]:
    """Who has left after these losses in the last round begun, or at an epoch after it, and after those in `back` joined again.

    An epoch names whoever left before it once more: that is no second leaving.
    """
    before = {site: left for site, left in state.left.items() if site not in back}
    codes = {site: left.code for site, left in before.items()}
    after = {
        drop.site: Left(state.last_attempted, drop.phase, drop.code)
        for drop in dropped
        if drop.code in FOR_GOOD and codes.get(drop.site) != drop.code
    }
    return before | after
