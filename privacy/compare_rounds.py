"""One site in one run: its charges, approvals and uploads against the coordinator's rounds, one check after the other. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from privacy.accountant import AGREEMENT, ENFORCE_INTERVAL, epsilon
from privacy.entries import NOT_PRIVATE
from privacy.errors import AccountingError
from privacy.events import Spend, aggregate
from privacy.run_folder import Ended, Published, ServerRun
from privacy.site_book import Charge, SiteBook
from privacy.terms import epsilon_charged, once_spends, round_spends, split_id


@dataclass(frozen=True)
class Trouble:
    """What does not fit in these rounds (none: in the run as a whole); `code` as in `privacy.compare.MEANINGS`."""

    code: str
    rounds: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class SitePart:
    """A site's part in a run. `books`: its ledgers, one for each patient population; empty where none was given."""

    run: ServerRun
    site: str
    books: tuple[SiteBook, ...]
    charged: Mapping[int, Charge]
    uploaded: frozenset[int] | None  # rounds whose update left the site; None where its books do not say

    @staticmethod
    def of(run: ServerRun, site: str, books: Sequence[SiteBook]) -> "SitePart":
        own = tuple(book for book in books if book.site == site)
        charged = {number: charge for book in own for number, charge in book.by_plan.get(run.plan.digest, {}).items()}
        said = [found for book in own if (found := book.uploaded(run.plan.digest)) is not None]
        return SitePart(run, site, own, charged, frozenset().union(*said) if said else None)

    @property
    def last_time(self) -> str:
        """Of the newest entry that was handed over."""
        return max(book.last_time for book in self.books)


def troubles(part: SitePart) -> Iterator[Trouble]:
    """Everything that the site's books and the coordinator's folder contradict each other in."""
    yield from _keys(part)
    yield from _hidden_by_the_coordinator(part)
    yield from _hidden_by_the_site(part)
    yield from _approvals(part)
    yield from _rounds(part)
    yield from _limits(part)
    yield from _uploads(part)
    yield from _published(part)


def _keys(part: SitePart) -> Iterator[Trouble]:
    """The run's roster says which key was the site's then: that one signed what the ledger has of the run, whatever came later."""
    on_roster = {member.id: member.identity_key for member in part.run.roster.members}.get(part.site)
    for book in part.books:
        own = sorted(book.by_plan.get(part.run.plan.digest, {}).items())
        if on_roster not in book.keys.known:
            yield Trouble("key", (), f"{book.path} is signed with {book.report.fingerprint}, another key than the roster's")
        elif wrong := tuple(number for number, charge in own if book.keys.at(charge.entry) != on_roster):
            yield Trouble("key", wrong, f"{book.path} has charges of this run that another key than the roster's signed")


def _hidden_by_the_coordinator(part: SitePart) -> Iterator[Trouble]:
    for number in sorted(part.charged):
        asked = part.run.asked.get(number)
        if asked is None:
            text = f"{part.site} was charged, and the journal (up to {part.run.last_at}) never asks for this round"
            yield Trouble("round-unknown", (number,), text)
        elif part.site not in asked.sites:
            yield Trouble("round-unknown", (number,), f"{part.site} was charged, and the journal says that it was not asked")


def _hidden_by_the_site(part: SitePart) -> Iterator[Trouble]:
    """Sums that the site is in, by the coordinator, and did not charge."""
    missing = [ended for ended in part.run.opened if part.site in ended.survivors and ended.round not in part.charged]
    code = "spend-missing" if part.charged else "run-missing"
    for ended in missing:
        later = f", after the last entry of this copy ({part.last_time})" if ended.at[:19] > part.last_time[:19] else ""
        text = f"the coordinator counts {part.site} in the sum{later}, its ledger has no charge; {_evidence(part, ended)}"
        yield Trouble(code, (ended.round,), text)


def _evidence(part: SitePart, ended: Ended) -> str:
    if part.run.proofs is None:
        return "that is the coordinator's word alone, records were not opened (--founders)"
    if part.site in part.run.proofs.survivors.get(ended.round, ()):
        return f"PROVEN: the record holds an update that {part.site} signed itself"
    return f"NOT PROVEN: no record holds an update that {part.site} signed"


def _approvals(part: SitePart) -> Iterator[Trouble]:
    plan = part.run.plan
    found = [approved for book in part.books for approved in book.approvals(plan.digest)]
    if not found and any(part.site in asked.sites for asked in part.run.asked.values()):
        yield Trouble("no-approval", (), f"the coordinator asked {part.site}, whose ledger has no approval of this plan")
    for approved in found:
        if (approved.lead, approved.delta) != (plan.lead, plan.privacy.delta):
            text = (
                f"approved as a plan of {approved.lead} at delta {approved.delta:g}, it is of {plan.lead} at {plan.privacy.delta:g}"
            )
            yield Trouble("mechanism", (), text)


def _rounds(part: SitePart) -> Iterator[Trouble]:
    """Rounds that both know: same purpose, same model, and the plan's mechanism to the letter."""
    counted = False
    for number, charge in sorted(part.charged.items()):
        asked, details = part.run.asked.get(number), charge.details
        if asked is not None and asked.purpose != details.purpose:
            yield Trouble("purpose", (number,), f"charged as {details.purpose}, asked to {asked.purpose}")
        if asked is not None and asked.model_hash != details.model_hash:
            said = f"model {asked.model_hash.hex()[:16]}, the ledger {details.model_hash.hex()[:16]}"
            yield Trouble("model", (number,), f"the journal names {said}")
        yield from _terms(part, charge)
        yield from _mechanism(part, charge, counted)
        counted = counted or details.purpose == "train"


def _mechanism(part: SitePart, charge: Charge, counted: bool) -> Iterator[Trouble]:
    """`counted`: a training round before this one already charged what is released once (it may be charged again, never less)."""
    plan, details = part.run.plan, charge.details
    try:
        planned = round_spends(plan, details.round, details.purpose)
    except AccountingError as error:
        yield Trouble("mechanism", (details.round,), str(error))
        return
    once = once_spends(plan) if details.purpose == "train" else ()
    allowed = {aggregate([*planned, *once])} | ({planned} if counted or not once else set())
    if aggregate(charge.spends) not in allowed:
        text = f"charged {_spends_text(charge.spends)}, the plan has {_spends_text(aggregate([*planned, *once]))}"
        yield Trouble("mechanism", (details.round,), text)


def _spends_text(spends: Sequence[Spend]) -> str:
    return "; ".join(f"{spend.count} x {spend.event} ({spend.population})" for spend in spends) or "nothing"


def _terms(part: SitePart, charge: Charge) -> Iterator[Trouble]:
    """The numbers that the mechanism's noise is relative to."""
    plan, details = part.run.plan, charge.details
    terms, patients = plan.privacy, plan.participant(part.site).declared_patients
    clips = {"train": terms.clip, "describe": terms.describe_clip, "evaluate": 1.0}
    planned = {
        "delta": terms.delta,
        "clip": clips[details.purpose],
        "grid_bits": terms.grid_bits,
        "normaliser": terms.sample_rate * patients if details.purpose == "train" else 1.0,
        "split_id": split_id(part.run.roster),
        "code_version": plan.code_version,
    }
    for name, value in planned.items():
        if (found := getattr(details, name)) != value:
            yield Trouble("mechanism", (details.round,), f"{name} was {found}, the plan has {value}")


def _limits(part: SitePart) -> Iterator[Trouble]:
    schedule = part.run.plan.schedule
    maxima = {"describe": schedule.max_describe, "train": schedule.max_train, "evaluate": schedule.max_evaluate}
    for purpose, most in maxima.items():
        rounds = tuple(number for number, charge in sorted(part.charged.items()) if charge.details.purpose == purpose)
        if len(rounds) > most:
            yield Trouble("limit", rounds[most:], f"{len(rounds)} rounds to {purpose} were charged, the plan allows {most}")
    if beyond := tuple(number for number in sorted(part.charged) if number > schedule.max_round):
        yield Trouble("limit", beyond, f"round numbers above {schedule.max_round}, the plan's last")
    yield from _cost(part)


def _cost(part: SitePart) -> Iterator[Trouble]:
    """The charges of a private run cost no more than its whole plan."""
    plan = part.run.plan
    spends = [spend for charge in part.charged.values() for spend in charge.spends]
    if not spends or not plan.private:
        return
    cost = epsilon(spends, plan.privacy.delta, interval=ENFORCE_INTERVAL)
    if cost > (most := epsilon_charged(plan, interval=ENFORCE_INTERVAL)) + AGREEMENT:
        yield Trouble("above-plan", (), f"its charges in this run come to epsilon {_number(cost)}, its whole plan to {most:.4f}")


def _uploads(part: SitePart) -> Iterator[Trouble]:
    """What left the site, by its own books, against its charges and the coordinator's sums."""
    if part.uploaded is None:
        return
    for number in sorted(part.uploaded - set(part.charged)):
        yield Trouble("uncharged", (number,), f"an update left {part.site}, and its ledger has no charge for the round")
    for ended in part.run.opened:
        if part.site in ended.survivors and ended.round not in part.uploaded:
            text = f"the coordinator counts {part.site} in the sum, and the site's books list no update in this round"
            yield Trouble("unlisted", (ended.round,), text)
        if part.site not in ended.survivors and ended.round in part.uploaded:
            yield _left_out(part, ended)


def _left_out(part: SitePart, ended: Ended) -> Trouble:
    for drop in ended.dropped:
        if drop.site == part.site:
            text = f"an update left {part.site} and is not in the sum; the journal says {drop.code} at {drop.phase}"
            return Trouble("left-out", (ended.round,), text)
    return Trouble("left-out-silently", (ended.round,), f"an update left {part.site}, is not in the sum, and no reason is given")


def _published(part: SitePart) -> Iterator[Trouble]:
    """Figures that the site published beside the run, against the ledger that they are of."""
    for said in part.run.published:
        if said.site == part.site:
            trouble = [_statement_trouble(said, book) for book in part.books]
            if trouble and all(trouble):  # with a ledger for each population, a figure is of one of them
                yield Trouble("receipt", (), trouble[0])


def _statement_trouble(said: Published, book: SiteBook) -> str:
    """Why the published figure is not this ledger's; empty if it is."""
    if not (said.entries >= 1 and 0.0 < said.delta < 1.0):
        return f"a figure of {said.entries} entries at delta {said.delta:g} was published, which no ledger has"
    if said.entries > len(book.entries):
        return f"a figure was published of {said.entries} entries, {book.path} has {len(book.entries)}"
    if book.entries[said.entries - 1].hash != said.ledger_head:
        return f"a figure was published of a ledger whose entry {said.entries - 1} is not the one in {book.path}: another history"
    upto = [charge for charge in book.charges if charge.entry < said.entries]
    spends = [spend for charge in upto for spend in charge.spends]
    found = epsilon(spends, said.delta, interval=ENFORCE_INTERVAL, split_ids={charge.details.split_id for charge in upto})
    published = math.inf if said.exposed == NOT_PRIVATE else said.exposed
    if found == published or abs(found - published) <= AGREEMENT:
        return ""
    return f"epsilon {_number(published)} was published, the ledger up to there gives {_number(found)} at delta {said.delta:g}"


def _number(value: float) -> str:
    return "NOT PRIVATE" if math.isinf(value) else f"{value:.4f}"
