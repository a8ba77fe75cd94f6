"""Drives a run from its folder: kill this process at any instant, start it again, and at most the unfinished round is repeated.

A round or epoch number is on disk before a request carries it, survivors and their masked sum before the first vote request, a
checkpoint before the round counts as done. A coordinator that takes over asks for the open round again, in the same words:
sites repeat their bytes, and nothing is spent anew. Every wait has a deadline; every site that does not contribute is named
with phase and code.
What the coordinator knows is only what it opened: sums over the survivors.
"""

import logging
import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from consortium.canonical import Bytes
from consortium.documents import Signed
from consortium.errors import EncodingError
from consortium.logs import request_id
from consortium.plan import Plan, body_length, header_fields, header_step, verify_plan
from consortium.roster import Roster, founders_fingerprint, verify_roster
from consortium.wire import Refusal, Reply, Request, decode_reply, encode_keys_request, encode_request
from secagg import coordinator, numbers
from secagg.aggregate import Aggregate
from secagg.context import Context
from secagg.encoding import decode_body, decode_header, decode_header_steps, decode_steps
from secagg.errors import SecaggError
from secagg.model import model_digest
from secagg.opening import Finding, NotOpenableError
from server import pooled
from server.checkpoint import Checkpoint, latest_checkpoint, model_view, save_checkpoint
from server.errors import FolderError, ServerError
from server.folder import RunFolder, keep, kept_folder, open_folder
from server.journal import (
    Checkpointed,
    Dropped,
    EpochAsked,
    EpochReady,
    Event,
    Found,
    Journal,
    RoundAttempt,
    RoundDone,
    RoundFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    RunStopped,
    VoteAsked,
    Waiting,
    named,
)
from server.live import Live
from server.migrate import code_version, forward
from server.model import Mean, parameters_of, released_model, step_model, with_buffers
from server.state import FOR_GOOD, RunState, advance, read_state
from server.strategy import Strategy, build
from server.transport import Patience, Transport, TransportError

log = logging.getLogger("wardround.rounds")

LOCK_S = 60.0  # how long an earlier coordinator of this run may take to end
GRACE_S = 5.0  # once enough sites answered, the others get this long, or as long again as those took
PROBE_S = 2.0  # how long an absent site is asked for its keys before a round goes on without it
PROBE_EVERY = 5  # rounds between such questions
POLL_APPROVAL_S = 2.0  # between two looks for stewards' decisions, growing with the time waited ...
POLL_LONGEST_S = 30.0  # ... to this: a wait may last days, and each look is two lines in the journal
PASSING = frozenset(
    {"NOT_APPROVED", "PAUSED", "NO_POLICY", "LEDGER", "LATE", "UNREACHABLE", "GUARD_DOWN", "BUSY", "EPOCH"}  # LEDGER: a full disk
)
DIVERGED = "DIVERGED"  # the step left the range of float32: the same step would be taken again
FAILURES_IN_A_ROW = 5
EPOCH_AGE_S = 23 * 3600.0  # sites refuse an epoch older than 24 h

Vector = NDArray[np.float64]
Phase = TypeVar("Phase", coordinator.KeysPhase, coordinator.KemPhase, coordinator.VotePhase)


@dataclass(frozen=True)
class Clock:
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, eq=False)
class Current:
    """The model after the last round that counted: float32 (model_size,), and the strategy's state."""

    round: int
    described: int
    trained: int
    evaluated: int
    model: NDArray[np.float32] = field(repr=False)
    state: tuple[Vector, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Wire:
    """The bytes of a round's model and their name."""

    source: Current = field(repr=False)
    purpose: str
    data: Bytes = field(repr=False)
    digest: bytes


@dataclass
class Tally:
    """What one round cost so far: seconds by phase, bytes over all sites, who was lost where."""

    seconds: dict[str, float] = field(default_factory=dict)
    up: int = 0
    down: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)
    held_back: set[str] = field(default_factory=set)

    def hold_back(self, site: str) -> None:
        """Leave out the upload of a dealer whose shares kept an earlier round shut."""
        self.held_back.add(site)
        self.lose(site, "update", "NOT_OPENABLE")

    def lose(self, site: str, phase: str, code: str) -> None:
        self.dropped.setdefault(site, Dropped(site, phase, code))


class OpenRound:
    """The epoch in force and the view that is being voted on, on disk: a coordinator that takes over asks for the same.

    Nothing in these files is secret, and nothing in them is believed: every signature is checked again.
    """

    def __init__(self, folder: RunFolder, context: Context) -> None:
        self._folder = folder
        self._context = context

    def keep_epoch(self, epoch: coordinator.Epoch) -> None:
        keep(kept_folder(self._folder.open) / "epoch", epoch.encode())

    def epoch(self) -> coordinator.Epoch | None:
        """None where there is none that verifies."""
        try:
            return coordinator.Epoch.decode(self._context, (self._folder.open / "epoch").read_bytes())
        except (OSError, SecaggError) as error:
            log.warning("state=epoch-not-taken-over reason=%s", _reason(error))
            return None

    def keep_view(self, number: int, votes: coordinator.VotePhase) -> None:
        """The survivors are durable before the first vote request. Their sum, which the view names by its digest, is written but
        not synchronised: it outlives this process; a power cut may cost the round, which then opens nothing."""
        view, total = self._files(number)
        kept_folder(self._folder.open)
        try:
            total.write_bytes(votes.total.data)
        except OSError as error:
            raise FolderError(f"cannot write {total}: {error.strerror}; free some space and resume") from error
        keep(view, votes.encode())

    def has_view(self, number: int) -> bool:
        return self._files(number)[0].exists()

    def view(self, attempt: RoundAttempt) -> coordinator.VotePhase | None:
        """The vote phase of this round as it was kept; None where it was not. Raises `RoundLostError` for one that does not
        verify: never is a second set of survivors asked for under its number."""
        view, total = self._files(attempt.round)
        if not view.exists():
            return None
        try:
            with (
                total.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as data,
            ):
                votes = coordinator.VotePhase.decode(self._context, view.read_bytes(), data)
        except (OSError, ValueError, SecaggError) as error:  # ValueError: an empty file
            log.warning("round=%d state=view-not-taken-over reason=%s", attempt.round, _reason(error))
            raise RoundLostError("NOT_OPENABLE") from error
        found = (votes.terms.round_number, votes.terms.purpose, votes.terms.model_hash)
        if found != (attempt.round, attempt.purpose, attempt.model_digest):
            raise RoundLostError("NOT_OPENABLE")
        return votes

    def forget(self, *, but: int = 0) -> None:
        """What was kept of rounds is of no more use once they ended; `but` one that did not."""
        for path in (*self._folder.open.glob("round-*.view"), *self._folder.open.glob("round-*.sum")):
            if path not in self._files(but):
                path.unlink(missing_ok=True)

    def _files(self, number: int) -> tuple[Path, Path]:
        return self._folder.open / f"round-{number:010d}.view", self._folder.open / f"round-{number:010d}.sum"


def _reason(error: Exception) -> str:
    return error.code if isinstance(error, SecaggError) else type(error).__name__


class RoundLostError(Exception):
    """This round opened nothing; the next attempt has the next number and its own spend."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def run(run_dir: Path, transport: Transport, *, clock: Clock | None = None) -> RunState:
    """Drive the run in `run_dir` to its end, from wherever it stands.

    Raises `ServerError` when the folder is not a verifiable run, when the disk refuses, or when the hub was told to stop.
    """
    folder = open_folder(run_dir)
    forward(folder.path, code_version())
    signed_plan, signed_roster = folder.signed_plan(), folder.signed_roster()
    roster = _roster(signed_roster)
    plan = verify_plan(signed_plan, roster)
    with Journal(folder.events, wait_s=LOCK_S) as journal:
        driver = Driver(folder, signed_plan, plan, roster, journal, transport, clock or Clock())
        driver.drive()
    return read_state(run_dir)


def _roster(signed: Signed) -> Roster:
    document = signed.document(Roster)
    return verify_roster(signed, founders_fingerprint(document.founders, document.founders_required))


class Driver:
    """One run. Single-threaded; all state that matters is in the journal and the checkpoints."""

    def __init__(
        self,
        folder: RunFolder,
        signed_plan: Signed,
        plan: Plan,
        roster: Roster,
        journal: Journal,
        transport: Transport,
        clock: Clock,
    ) -> None:
        self._folder = folder
        self._signed_plan = signed_plan
        self._plan = plan
        self._journal = journal
        self._transport = transport
        self._clock = clock
        self._digest = signed_plan.digest
        self._strategy: Strategy = build(plan.strategy.name, dict(plan.strategy.options))
        self._context = Context.of(roster, plan, self._digest)
        self._open_round = OpenRound(folder, self._context)
        self._taken_over = False
        self._sent: Wire | None = None
        self._least = numbers.smallest_epoch(roster.colluders, roster.minimum_cohort)
        self._state = read_state(folder.path)
        self._epoch: coordinator.Epoch | None = None
        self._epoch_since = 0.0
        self._probed = 0
        self._failures = 0
        self._futile = ""  # why no further attempt can help: another one would only be charged
        self._left_out: dict[str, Dropped] = {}  # sites that refused a round for good; asked again when the run is resumed
        self._waiting: dict[str, str] = {}
        self._live = Live(folder.live)

    def drive(self) -> None:
        if self._state.phase == "finished":
            return
        try:
            self._drive()
        except TransportError:
            self._append(RunStopped("STOPPED"))
            raise
        finally:
            self._live.end()

    def _drive(self) -> None:
        started = self._clock.monotonic()
        current = self._begin()
        while (purpose := self._next_purpose(current)) is not None:
            attempt = self._left_open(current, purpose)
            if attempt is None:
                if code := self._exhausted(purpose) or self._enter_epoch():
                    self._append(RunStopped(code))
                    return
                attempt = self._new_attempt(current, purpose)
            current = self._attempt(current, attempt)
        final = self._wire_model(current, final=True)
        self._append(RunFinished(model_digest(final), self._clock.monotonic() - started))

    # -- where the run stands --------------------------------------------------------------------------------------------

    def _begin(self) -> Current:
        found = latest_checkpoint(self._folder.checkpoints, self._digest, model_size=self._plan.model_size)
        for sentence in found.skipped:
            log.warning("checkpoint=skipped detail=%s", sentence)
        if not self._plan.private:
            log.warning("run=%s privacy=NOT-PRIVATE", self._plan.run_id)
        unfinished = self._state.unfinished
        self._open_round.forget(but=unfinished.round if unfinished else 0)
        if self._state.phase == "new":
            self._append(RunStarted(self._plan.run_id, self._digest, self._plan.sites, self._plan.private))
        else:
            self._append(RunResumed(found.checkpoint.round if found.checkpoint else 0))
        if found.checkpoint is None:
            model = pooled.initial_model(self._plan)
            return Current(0, 0, 0, 0, model, self._strategy.init(parameters_of(self._plan, model)))
        saved, evaluated = found.checkpoint, self._state.completed("evaluate")  # figures are in the journal or nowhere
        return Current(saved.round, saved.described, saved.trained, evaluated, saved.model, saved.state)

    def _next_purpose(self, current: Current) -> str | None:
        if self._plan.statistics and not current.described:
            return "describe"
        if current.trained < self._plan.schedule.rounds:
            return "train"
        return None if current.evaluated or not self._plan.schedule.max_evaluate else "evaluate"

    def _exhausted(self, purpose: str) -> str:
        """The stop code where no further attempt is allowed or can help, else nothing."""
        if self._futile or self._failures >= FAILURES_IN_A_ROW:
            return self._futile or "FAILED_IN_A_ROW"
        schedule = self._plan.schedule
        allowed = {"describe": schedule.max_describe, "train": schedule.max_train, "evaluate": schedule.max_evaluate}
        if self._state.next_round > schedule.max_round or self._state.attempts.get(purpose, 0) >= allowed[purpose]:
            return "LIMIT"
        return ""

    def _wire(self, current: Current, purpose: str) -> "Wire":
        """The model as sites receive it in a round; made once a round."""
        if self._sent is None or self._sent.source is not current or self._sent.purpose != purpose:
            data = self._wire_model(current, final=purpose == "evaluate")
            self._sent = Wire(current, purpose, data, model_digest(data))
        return self._sent

    def _wire_model(self, current: Current, *, final: bool = False) -> Bytes:
        """The bytes that sites receive, not copied; the last evaluation sees the model that the run hands out."""
        if final:
            return model_view(released_model(self._plan, self._strategy, current.state, current.model))
        return model_view(current.model)

    def _append(self, event: Event) -> None:
        self._state = advance(self._state, self._journal.append(event))

    # -- epochs ------------------------------------------------------------------------------------------------------------

    def _enter_epoch(self) -> str:
        """An epoch in force, with every site that answers. Returns a stop code, or nothing."""
        if self._epoch is not None and self._clock.monotonic() - self._epoch_since > EPOCH_AGE_S:
            self._epoch = None
        if self._epoch is not None and not self._absent_is_back():
            return ""
        began = self._clock.monotonic()
        give_up = began + self._plan.deadlines.approval_s
        while True:
            self._epoch = self._open_epoch(give_up)
            if self._epoch is not None:
                self._epoch_since = self._clock.monotonic()
                return ""
            if self._hopeless():
                return "REFUSED"
            if (now := self._clock.monotonic()) >= give_up:
                return "NOT_APPROVED" if "NOT_APPROVED" in self._waiting.values() else "TOO_FEW"
            self._live.pause("approval", give_up - now)
            self._clock.sleep(min(POLL_APPROVAL_S + (now - began) / 10.0, POLL_LONGEST_S, give_up - now))

    def _hopeless(self) -> bool:
        """Too many sites refused for a reason that no waiting changes (an altered plan, another version, the steward's no)."""
        refused = {site for site, code in self._waiting.items() if code not in PASSING} | set(self._left_out)
        return len(self._plan.sites) - len(refused) < self._least

    def _absent_is_back(self) -> bool:
        """Ask absent sites, now and then, whether they can join; an answer is reason enough for a new epoch."""
        assert self._epoch is not None, "asked only while an epoch is in force"  # noqa: S101 - cannot happen
        absent = tuple(site for site in self._candidates if site not in self._epoch.sites)
        if not absent or self._state.last_attempted - self._probed < PROBE_EVERY:
            return False
        self._probed = self._state.last_attempted
        number, tally = self._state.next_epoch, Tally()
        self._append(EpochAsked(number, absent))
        phase = coordinator.start_epoch(self._context, number, absent)
        requests = {site: self._keys_request(request) for site, request in phase.requests().items()}
        for site, answer, _ in self._ask("sa1_keys", requests, Patience(PROBE_S), tally, "keys"):
            phase = _received(phase, site, answer, tally, "keys")
        return bool(phase.received)

    @property
    def _candidates(self) -> tuple[str, ...]:
        return tuple(site for site in self._plan.sites if site not in self._left_out)

    def _patience_for_keys(self) -> Patience:
        """The first epoch waits for everybody; later ones do not stand still for a site that died: it may join again."""
        quorum = self._least if self._state.epoch_sites else 0
        return Patience(self._plan.deadlines.keys_s, quorum=quorum, grace_s=GRACE_S)

    def _open_epoch(self, give_up: float) -> coordinator.Epoch | None:
        """One attempt with all participants; a site that fails the second exchange is left out of the next number."""
        sites, started, tally = self._candidates, self._clock.monotonic(), Tally(dropped=dict(self._left_out))
        while len(sites) >= self._least:
            number = self._state.next_epoch
            self._append(EpochAsked(number, sites))
            keys = coordinator.start_epoch(self._context, number, sites)
            requests = {site: self._keys_request(request) for site, request in keys.requests().items()}
            for site, answer, _ in self._ask("sa1_keys", requests, self._patience_for_keys(), tally, "keys"):
                keys = _received(keys, site, answer, tally, "keys")
            self._note_waiting(tally, sites)
            if self._must_wait(tally, tuple(sorted(keys.received)), give_up):
                return None
            kems = keys.close()
            requests = {site: self._request(request) for site, request in kems.requests().items()}
            for site, answer, _ in self._ask("sa1_kem", requests, self._patience_for_keys(), tally, "kem"):
                kems = _received(kems, site, answer, tally, "kem")
            if not kems.missing:
                epoch = kems.close()
                self._open_round.keep_epoch(epoch)
                seconds = self._clock.monotonic() - started
                self._append(EpochReady(number, epoch.sites, epoch.threshold, tuple(tally.dropped.values()), seconds))
                return epoch
            sites = tuple(site for site in tuple(sorted(keys.received)) if site not in kems.missing)
        return None

    def _must_wait(self, tally: Tally, answered: tuple[str, ...], give_up: float) -> bool:
        """Too few sites, or the first epoch while stewards still decide: people get `approval_s`, machines `keys_s`."""
        if len(answered) < self._least:
            return True
        undecided = any(drop.code == "NOT_APPROVED" for drop in tally.dropped.values())
        return undecided and not self._state.epoch_sites and self._clock.monotonic() < give_up

    def _note_waiting(self, tally: Tally, sites: tuple[str, ...]) -> None:
        now = {site: drop.code for site, drop in tally.dropped.items()}
        for site in sites:
            if now.get(site, "") != self._waiting.get(site, ""):
                self._append(Waiting(site, now.get(site, "")))
        self._waiting = now

    def _keys_request(self, sa1: bytes) -> Request:
        return Request(encode_keys_request(self._signed_plan.encode(), sa1))

    def _request(self, sa1: bytes, body: Bytes = b"") -> Request:
        return Request(encode_request(self._digest, sa1), body)

    # -- a round -----------------------------------------------------------------------------------------------------------

    def _new_attempt(self, current: Current, purpose: str) -> RoundAttempt:
        """A round with a number that no request has carried."""
        epoch = self._epoch
        assert epoch is not None, "a round is attempted only inside an epoch"  # noqa: S101 - cannot happen
        attempt = RoundAttempt(self._state.next_round, purpose, epoch.roll.number, self._wire(current, purpose).digest)
        self._append(attempt)
        return attempt

    def _left_open(self, current: Current, purpose: str) -> RoundAttempt | None:
        """The round that an earlier coordinator left open, if it can be asked for again to the letter. Looked for once."""
        attempt, looked = self._state.unfinished, self._taken_over
        self._taken_over = True
        if looked or attempt is None or attempt.purpose != purpose or attempt.round <= current.round:
            return None
        voting = self._state.last_vote is not None and self._state.last_vote.round == attempt.round
        if voting and not self._open_round.has_view(attempt.round):
            return None  # survivors were asked for, and who they are is lost: no other set may follow under this number
        epoch, model = self._open_round.epoch(), self._wire(current, purpose).digest
        if epoch is None or epoch.roll.number != attempt.epoch or model != attempt.model_digest:
            return None
        self._epoch, self._epoch_since = epoch, self._clock.monotonic()
        log.info("round=%d state=taken-over", attempt.round)
        return attempt

    def _attempt(self, current: Current, attempt: RoundAttempt) -> Current:
        """One round; on success the new state is durable before it is returned, on failure the old one is returned."""
        epoch = self._epoch
        assert epoch is not None, "a round is attempted only inside an epoch"  # noqa: S101 - cannot happen
        number, purpose, tally = attempt.round, attempt.purpose, Tally()
        try:
            votes = self._open_round.view(attempt) or self._survivors(epoch, current, attempt, tally)
            if self._state.last_vote is None or self._state.last_vote.round != number:
                self._append(VoteAsked(number, votes.survivors))
            aggregate = self._opened(votes, tally)
            self._keep(number, aggregate)
            after, metrics, histogram = self._apply(current, number, purpose, aggregate, epoch.roll.n)
        except RoundLostError as lost:
            self._failures += 1
            self._leave_out(tally, lost.code)
            self._append(RoundFailed(number, purpose, lost.code, tuple(tally.dropped.values()), named(tally.seconds)))
            self._open_round.forget()
            return current
        self._failures = 0
        self._leave_out(tally)
        done = RoundDone(
            round=number,
            purpose=purpose,
            survivors=aggregate.survivors,
            dropped=tuple(tally.dropped.values()),
            seconds=named(tally.seconds),
            bytes_up=tally.up,
            bytes_down=tally.down,
            metrics=named(metrics),
            histogram=tuple(histogram),
        )
        # What a round was spent for is durable first: a new model in its checkpoint, figures in the journal.
        if purpose == "evaluate":
            self._append(done)
            self._save(after)
        else:
            self._save(after)
            self._append(done)
        self._open_round.forget()
        return after

    def _leave_out(self, tally: Tally, lost: str = "") -> None:
        """After a round with losses (`lost`: its code if nothing opened) the next one needs an epoch without those who refused
        for good: they would take a place in the threshold and never fill it. Whoever was only late may join again."""
        if lost or any(drop.site not in tally.held_back for drop in tally.dropped.values()):
            self._epoch = None
        self._left_out |= {site: drop for site, drop in tally.dropped.items() if drop.code in FOR_GOOD}
        if lost == DIVERGED:
            self._futile = DIVERGED
        elif len(self._candidates) < self._least:
            self._futile = "REFUSED"

    def _keep(self, number: int, aggregate: Aggregate) -> None:
        """The opened round's messages, for sites and auditors, and what they prove about whoever sent a wrong one."""
        keep(kept_folder(self._folder.records) / f"round-{number:010d}.record", aggregate.record)
        self._note(number, aggregate.findings)

    def _note(self, number: int, findings: tuple[Finding, ...]) -> None:
        """What a round proves about whoever sent a wrong message; once, also if a coordinator that took over finds it again."""
        for finding in findings:
            found = Found(number, finding.what, finding.sites)
            if found not in self._state.found:
                log.warning("round=%d finding=%s sites=%s", number, finding.what, ",".join(finding.sites))
                self._append(found)

    def _survivors(self, epoch: coordinator.Epoch, current: Current, attempt: RoundAttempt, tally: Tally) -> coordinator.VotePhase:
        """The uploads of a round, their set fixed and on disk. Raises `RoundLostError` with too few."""
        plan, number, purpose = self._plan, attempt.round, attempt.purpose
        header = sum(item.length for item in header_fields(plan, number, purpose))
        uploads = epoch.open_round(
            number, purpose, attempt.model_digest, header_length=1 + header, body_length=body_length(plan, purpose)
        )
        model = self._wire(current, purpose).data
        requests = {site: self._request(request, model) for site, request in uploads.requests().items()}
        patience = Patience(plan.deadlines.update_s, quorum=epoch.threshold, grace_s=GRACE_S)
        suspects, held_back = self._state.suspects, dict[str, tuple[bytes, Bytes]]()
        for site, answer, y in self._ask("sa1_update", requests, patience, tally, "update"):
            if site in suspects:
                held_back[site] = answer, y
            else:
                uploads = self._uploaded(uploads, site, answer, y, tally)
            del y  # before the next one comes
        for site in sorted(held_back, key=suspects.__getitem__):  # whoever was blamed longest ago first
            answer, y = held_back.pop(site)
            if len(uploads.uploads) < epoch.threshold:
                uploads = self._uploaded(uploads, site, answer, y, tally)
            else:
                tally.hold_back(site)
        try:
            votes = uploads.close()
        except SecaggError as error:
            raise RoundLostError(error.code) from error
        self._open_round.keep_view(number, votes)
        return votes

    def _uploaded(
        self, uploads: coordinator.UploadPhase, site: str, answer: bytes, y: Bytes, tally: Tally
    ) -> coordinator.UploadPhase:
        """`uploads` with one more; one that does not fit loses its site, not the round."""
        try:
            after = uploads.receive(site, answer, y)
        except SecaggError as error:
            tally.lose(site, "update", error.code)
            return uploads
        if self._folder.keeps_vectors:
            self._folder.keep_vector(uploads.terms.round_number, site, y)
        return after

    def _opened(self, votes: coordinator.VotePhase, tally: Tally) -> Aggregate:
        """The sum over the survivors. Raises `RoundLostError` when nothing opens, or nothing usable."""
        requests = {site: self._request(request) for site, request in votes.requests().items()}
        patience = Patience(self._plan.deadlines.vote_s, quorum=votes.epoch.threshold, grace_s=GRACE_S)
        for site, answer, _ in self._ask("sa1_vote", requests, patience, tally, "vote"):
            votes = _received(votes, site, answer, tally, "vote")
        started = self._clock.monotonic()
        try:
            return votes.close(threads=len(os.sched_getaffinity(0)))
        except NotOpenableError as error:
            self._note(votes.terms.round_number, error.findings)
            for site in error.sites:
                tally.lose(site, "deal" if site == error.dealer else "vote", error.code)
            raise RoundLostError(error.code) from error
        except SecaggError as error:
            for site in error.sites:
                tally.lose(site, "vote", error.code)
            raise RoundLostError(error.code) from error
        finally:
            tally.seconds["open"] = self._clock.monotonic() - started

    def _ask(
        self, kind: str, requests: Mapping[str, Request], patience: Patience, tally: Tally, phase: str
    ) -> Iterator[tuple[str, bytes, Bytes]]:
        """The answers of one exchange as they come, each held only until the next: (site, protocol message, body).

        Refusals and silence are noted in `tally`.
        """
        started, answered = self._clock.monotonic(), set()
        names = self._begin_asking(kind, requests, patience, phase)
        tally.down += sum(len(request.control) + len(request.body) for request in requests.values())
        for site, reply in self._transport.exchange(kind, requests, patience):
            if site not in requests or site in answered:
                continue  # a transport hands over one reply a site; whatever else comes is nobody's answer
            answered.add(site)
            tally.up += len(reply.control) + len(reply.body)
            message = _message(reply)
            if isinstance(message, Refusal):
                said = (site, phase, message.code, message.correlation, names[site])
                log.warning("site=%s phase=%s refused=%s correlation=%s request=%s", *said)
                self._live.heard(site, "refused", message.code)
                tally.lose(site, phase, message.code)
            else:
                log.info("site=%s phase=%s state=answered request=%s", site, phase, names[site])
                self._live.heard(site, "answered")
                body = reply.body
                del reply
                yield site, message, body
                del body
        for site in sorted(set(requests) - answered):
            code = self._transport.failures.get(site, "LATE")
            log.warning("site=%s phase=%s lost=%s request=%s", site, phase, code, names[site])
            self._live.heard(site, "silent", code)
            tally.lose(site, phase, code)
        tally.seconds[phase] = tally.seconds.get(phase, 0.0) + self._clock.monotonic() - started

    def _begin_asking(self, kind: str, requests: Mapping[str, Request], patience: Patience, phase: str) -> dict[str, str]:
        """One line and one display for an exchange that is about to be sent. Returns site -> id of its request in all logs."""
        attempt = self._state.unfinished if phase in {"update", "vote"} else None
        number, purpose = (attempt.round, attempt.purpose) if attempt else (0, "")
        log.info("run=%s round=%d phase=%s state=asking sites=%d", self._plan.run_id, number, phase, len(requests))
        names = {site: request_id(kind, request.control) for site, request in requests.items()}
        self._live.begin(phase, names, number=number, purpose=purpose, limit_s=patience.deadline_s)
        return names

    def _apply(
        self, current: Current, number: int, purpose: str, aggregate: Aggregate, n: int
    ) -> tuple[Current, dict[str, float], list[float]]:
        """The state after an opened sum, its metrics and its pooled histogram."""
        count, header = self._read_header(number, purpose, aggregate)
        after, metrics, histogram = replace(current, round=number), dict[str, float](), list[float]()
        if purpose == "describe":
            described = with_buffers(self._plan, current.model, pooled.buffers(self._plan, header, contributors=count))
            after = replace(after, model=described, described=current.described + 1)
        else:
            if purpose == "train" and self._plan.privacy.counted:
                metrics = pooled.patients(self._plan, header[0], contributors=count)
                header = header[1:]
            if header.size:
                histogram = [float(value) for value in header]
                metrics |= pooled.metrics(self._plan, header, contributors=count)
        if purpose == "evaluate":
            after = replace(after, evaluated=current.evaluated + 1)
        if purpose == "train":
            mean = self._mean(aggregate, n)
            try:
                state, model = step_model(self._plan, self._strategy, current.state, current.model, mean)
            except ServerError as error:
                log.warning("round=%d state=diverged detail=%s", number, error)
                raise RoundLostError(DIVERGED) from error
            after = replace(after, state=state, model=model, trained=current.trained + 1)
        return after, metrics, histogram

    def _read_header(self, number: int, purpose: str, aggregate: Aggregate) -> tuple[int, NDArray[np.float64]]:
        """Sites in the sum, and the header's summed values in their own units."""
        if not self._plan.privacy.distributed:
            return decode_header(aggregate.header)
        fields = header_fields(self._plan, number, purpose)
        steps = [np.full(field.length, header_step(self._plan, field.name)) for field in fields]
        return decode_header_steps(aggregate.header, np.concatenate([*steps, np.zeros(0)]))

    def _mean(self, aggregate: Aggregate, n: int) -> Mean:
        """The survivors' mean update; in mode distributed their noised sum over their public normalisers."""
        plan = self._plan
        trained = pooled.trained_by(plan, aggregate.survivors)
        if not plan.privacy.distributed:
            weights = sum(plan.weight(site) for site in trained)

            def mean(part: slice) -> Vector:
                return decode_body(aggregate.body[part], plan.coordinate_clip, n, ring_bits=plan.ring_bits) / weights

            return mean
        patients = sum(plan.participant(site).declared_patients for site in trained)
        normaliser = plan.privacy.sample_rate * patients
        return lambda part: decode_steps(aggregate.body[part], -plan.schedule.local_rate * plan.privacy.grid_step / normaliser)

    def _save(self, current: Current) -> None:
        checkpoint = Checkpoint(
            self._digest, current.round, current.described, current.trained, current.evaluated, current.model, current.state
        )
        save_checkpoint(self._folder.checkpoints, checkpoint)
        self._append(Checkpointed(current.round, model_digest(model_view(current.model))))


def _message(reply: Reply) -> bytes | Refusal:
    """The protocol message of a reply; what is not one counts as a refusal without a correlation."""
    try:
        return decode_reply(reply.control)
    except EncodingError:
        return Refusal("UNDECODABLE", (), "0" * 16)


def _received(phase: Phase, site: str, message: bytes, tally: Tally, name: str) -> Phase:
    """`phase` with one more message; a message that does not fit loses its site, not the round."""
    try:
        return phase.receive(site, message)
    except SecaggError as error:
        tally.lose(site, name, error.code)
        return phase
