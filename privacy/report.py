"""What a report page shows, gathered from ledgers, run folders, manifests and measurements, before any of it becomes HTML. Pure.

Every number that is promised about patients is recomputed here from the recorded mechanisms; what a site or a coordinator only
says stands beside it as said.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from consortium.errors import DocumentError
from privacy.accountant import CERTIFY_INTERVAL, ENFORCE_INTERVAL, epsilon
from privacy.check import Bracket
from privacy.compare import Comparison
from privacy.entries import NOT_PRIVATE, Entry, PlanApproved, PlanRefused, PopulationChanged, Recovered, RunNote, Withdrawn
from privacy.events import (
    GaussianEvent,
    NonPrivateEvent,
    PoissonGaussianEvent,
    SharedGaussianEvent,
    SharedPoissonGaussianEvent,
    Spend,
    as_exposed,
)
from privacy.manifest import UPDATE, Manifest
from privacy.run_folder import Ended, ServerRun
from privacy.site_book import Charge, SiteBook

HASH_SHOWN: Final = 12  # hex digits of a digest in a table; the whole ones stand at the end of the page
_TIMING: Final = ("LATE", "UNREACHABLE")  # absences that are nobody's decision
_POPULATIONS: Final = {"train": "training patients", "held_out": "held-out patients", "all": "all patients"}


@dataclass(frozen=True)
class Told:
    """What the person who makes the page knows from elsewhere. `budgets`: site -> total epsilon; `keys`: site -> fingerprint."""

    date: str = ""
    title: str = "Privacy audit report"
    budgets: Mapping[str, float] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """Epsilon of one site's whole ledger at one delta: as charged, twice, and if an update of the site were read in the clear."""

    delta: float
    charged: float
    independent: Bracket
    agree: bool
    exposed: float


@dataclass(frozen=True)
class Step:
    """One charge: the site's epsilon after it, infinite for not private."""

    run_id: str
    epsilon: float


@dataclass(frozen=True)
class SiteFacts:
    """`key`: "agrees" or "differs" from the fingerprint that was told, empty if none was. `steps`: by delta."""

    book: SiteBook
    figures: tuple[Figure, ...]
    key: str
    budget: float | None
    steps: Mapping[float, tuple[Step, ...]]

    @property
    def name(self) -> str:
        return self.book.site

    @property
    def problems(self) -> tuple[str, ...]:
        told = ("the key is not the one that was told: this is another site's ledger",) if self.key == "differs" else ()
        return (*told, *self.book.report.problems)

    @property
    def private(self) -> bool:
        return not self.book.report.non_private_entries

    @property
    def worst(self) -> Figure | None:
        """At the smallest delta, the strictest that the ledger used."""
        return self.figures[0] if self.figures else None


POPULATION = "population"  # what a decision is called that tells of a change of the patients


@dataclass(frozen=True)
class Decision:
    """What a site decided about a plan, or wrote down beside it."""

    time: str
    site: str
    what: str
    lead: str
    by: str
    until: str
    words: str


@dataclass(frozen=True)
class RoundLine:
    """One round of a study, by all books together. `releases`: labels of what the sites charged. `ended`: by the coordinator."""

    number: int
    purpose: str
    time: str
    releases: tuple[str, ...]
    charged: tuple[str, ...]
    ended: Ended | None
    models: tuple[str, ...]


@dataclass(frozen=True)
class Release:
    """A kind of release in a study: the label that the round table uses, in words, and how many charges had it."""

    label: str
    words: str
    private: bool
    charges: int


@dataclass(frozen=True)
class StudySite:
    """One site's charges in one study: epsilon of these alone, and of everything after the last of them, as the site wrote it."""

    site: str
    rounds: int
    delta: float
    charged: float
    exposed: float
    after: float


@dataclass(frozen=True)
class Study:
    """One run: everything that the given books say under one plan digest. `server`: None where no folder of it was given."""

    run_id: str
    digest: bytes
    server: ServerRun | None
    sites: tuple[StudySite, ...]
    releases: tuple[Release, ...]
    rounds: tuple[RoundLine, ...]
    decisions: tuple[Decision, ...]

    @property
    def private(self) -> bool:
        return all(release.private for release in self.releases) and (self.server is None or self.server.plan.private)

    @property
    def fewer(self) -> tuple[Ended, ...]:
        """Opened rounds without all sites of the plan."""
        return () if self.server is None else tuple(one for one in self.server.opened if self.missing(one))

    def missing(self, ended: Ended) -> tuple[str, ...]:
        sites = self.server.plan.sites if self.server else ()
        return tuple(site for site in sites if site not in ended.survivors)


@dataclass(frozen=True)
class Egress:
    """What left a site under one plan in answers of one kind. `size` of what is masked and of what is not; None: no manifest."""

    site: str
    run_id: str
    kind: str
    answers: int
    masked: int | None
    plain: int | None


@dataclass(frozen=True)
class Linkage:
    """Whether a site's signed ledger vouches for its manifest of one run."""

    site: str
    run_id: str
    ok: bool
    sentence: str


@dataclass(frozen=True)
class Evidence:
    """One measurement's file. `values`: its keys as they stand; `flaw`: why it is no such file, empty if it is."""

    path: Path
    kind: str
    values: Mapping[str, object]
    flaw: str


@dataclass(frozen=True)
class Facts:
    told: Told
    as_of: str
    sites: tuple[SiteFacts, ...]
    studies: tuple[Study, ...]
    loose: tuple[Decision, ...]
    egress: tuple[Egress, ...]
    links: tuple[Linkage, ...]
    comparison: Comparison | None
    evidence: tuple[Evidence, ...]

    @property
    def private(self) -> bool:
        return all(site.private for site in self.sites) and all(study.private for study in self.studies)

    @property
    def ok(self) -> bool:
        """Every ledger verified, every manifest given fits, and nothing contradicts the coordinator's folders."""
        agree = self.comparison is None or self.comparison.ok
        return agree and not any(site.problems for site in self.sites) and all(link.ok for link in self.links)


def gather(books: Sequence[SiteBook], comparison: Comparison | None, audits: Iterable[tuple[Path, bytes]], told: Told) -> Facts:
    """All that the page shows. Without `told.date` it is as of the newest entry in the books: nothing here asks a clock."""
    ordered = sorted(books, key=lambda book: (book.site, book.genesis.population, str(book.path)))
    runs = {run.plan.digest: run for run in comparison.runs} if comparison else {}
    named = {digest: run_id for book in ordered for digest, run_id in book.named.items()}
    named |= {digest: run.run_id for digest, run in runs.items()}
    studies = [_study(run_id, digest, runs.get(digest), ordered) for digest, run_id in named.items()]
    times = [book.last_time for book in ordered] + [run.last_at for run in runs.values()]
    return Facts(
        told=told,
        as_of=told.date or max(times, default="")[:10],
        sites=tuple(_site(book, told) for book in ordered),
        studies=tuple(sorted(studies, key=lambda study: (_begun(study), study.run_id, study.digest))),
        loose=tuple(decision for book in ordered for decision in _loose(book)),
        egress=tuple(row for book in ordered for row in _egress(book)),
        links=tuple(Linkage(book.site, one.run_id, one.ok, one.sentence) for book in ordered for _, one in book.linked),
        comparison=comparison,
        evidence=tuple(read_evidence(path, data) for path, data in audits),
    )


def _begun(study: Study) -> str:
    times = [line.time for line in study.rounds if line.time] + [decision.time for decision in study.decisions]
    return min(times, default=study.server.started_at if study.server else "")


# A site.


def _site(book: SiteBook, told: Told) -> SiteFacts:
    fingerprint = told.keys.get(book.site, "")
    key = "" if not fingerprint else "agrees" if fingerprint in book.report.keys else "differs"
    steps: dict[float, list[Step]] = {}
    for charge in book.charges:
        steps.setdefault(charge.details.delta, []).append(Step(charge.details.run_id, _value(charge.epsilon_after)))
    figures = tuple(
        Figure(one.delta, one.reference, one.independent, one.agree, _exposed(book, one.delta)) for one in book.report.figures
    )
    return SiteFacts(book, figures, key, told.budgets.get(book.site), {delta: tuple(found) for delta, found in steps.items()})


def _exposed(book: SiteBook, delta: float) -> float:
    spends = as_exposed(spend for charge in book.charges for spend in charge.spends)
    return epsilon(spends, delta, interval=CERTIFY_INTERVAL, split_ids=book.split_ids)


def _value(written: float) -> float:
    return math.inf if written == NOT_PRIVATE else written


# A study.


def _study(run_id: str, digest: bytes, server: ServerRun | None, books: Sequence[SiteBook]) -> Study:
    charged = [(book.site, book.by_plan[digest]) for book in books if digest in book.by_plan]
    releases = _releases([charge for _, charges in charged for charge in charges.values()])
    return Study(
        run_id=run_id,
        digest=digest,
        server=server,
        sites=tuple(_study_site(site, list(charges.values())) for site, charges in charged),
        releases=tuple(releases.values()),
        rounds=_rounds(charged, server, {key: release.label for key, release in releases.items()}),
        decisions=tuple(sorted((found for book in books for found in _decisions(book, digest)), key=lambda one: one.time)),
    )


def _releases(charges: Sequence[Charge]) -> dict[tuple[Spend, ...], Release]:
    counts: dict[tuple[Spend, ...], int] = {}
    for charge in charges:
        counts[charge.spends] = counts.get(charge.spends, 0) + 1
    return {
        spends: Release(f"R{number}", release_words(spends), _has_noise(spends), counts[spends])
        for number, spends in enumerate(counts, 1)
    }


def _has_noise(spends: Sequence[Spend]) -> bool:
    return not any(isinstance(spend.event, NonPrivateEvent) for spend in spends)


def release_words(spends: Sequence[Spend]) -> str:
    """What one charge released, for somebody who knows no code."""
    return "; ".join(f"{_count(spend)}{_event_words(spend)}, about the {_POPULATIONS[spend.population]}" for spend in spends)


def _count(spend: Spend) -> str:
    return f"{spend.count} times " if spend.count != 1 else ""


def _event_words(spend: Spend) -> str:
    match spend.event:
        case GaussianEvent(noise):
            return f"a sum with Gaussian noise of {noise:.4g} times one patient's bound"
        case PoissonGaussianEvent(noise, rate):
            return f"a sum over a random {rate:.3g} of the patients with Gaussian noise of {noise:.4g} times one patient's bound"
        case SharedGaussianEvent(noise, contributors):
            return (
                f"a sum with this site's share of the noise, {noise:.4g} times one patient's bound, one of at least {contributors}"
            )
        case SharedPoissonGaussianEvent(noise, rate, contributors):
            what = f"a sum over a random {rate:.3g} of the patients with this site's share of the noise"
            return f"{what}, {noise:.4g} times one patient's bound, one of at least {contributors}"
        case NonPrivateEvent():
            return "a sum WITHOUT NOISE"


def _study_site(site: str, charges: Sequence[Charge]) -> StudySite:
    spends = [spend for charge in charges for spend in charge.spends]
    splits = {charge.details.split_id for charge in charges}
    delta = charges[-1].details.delta
    alone = [epsilon(found, delta, interval=ENFORCE_INTERVAL, split_ids=splits) for found in (spends, as_exposed(spends))]
    return StudySite(site, len(charges), delta, alone[0], alone[1], _value(charges[-1].epsilon_after))


def _rounds(
    charged: Sequence[tuple[str, Mapping[int, Charge]]], server: ServerRun | None, labels: Mapping[tuple[Spend, ...], str]
) -> tuple[RoundLine, ...]:
    numbers = {number for _, charges in charged for number in charges} | (set(server.asked) if server else set())
    return tuple(_round(number, charged, server, labels) for number in sorted(numbers))


def _round(
    number: int,
    charged: Sequence[tuple[str, Mapping[int, Charge]]],
    server: ServerRun | None,
    labels: Mapping[tuple[Spend, ...], str],
) -> RoundLine:
    own = [(site, charges[number]) for site, charges in charged if number in charges]
    asked = server.asked.get(number) if server else None
    purpose = own[0][1].details.purpose if own else asked.purpose if asked else ""
    time = min((charge.time for _, charge in own), default=asked.at if asked else "")
    return RoundLine(
        number=number,
        purpose=purpose,
        time=time,
        releases=tuple(sorted({labels[charge.spends] for _, charge in own}, key=lambda label: int(label[1:]))),
        charged=tuple(site for site, _ in own),
        ended=server.ended.get(number) if server else None,
        models=tuple(sorted({charge.details.model_hash.hex()[:HASH_SHOWN] for _, charge in own})),
    )


# Decisions and notes.


def _decisions(book: SiteBook, digest: bytes) -> list[Decision]:
    return [found for entry in book.entries if (found := _decision(book.site, entry, digest))]


def _decision(site: str, entry: Entry, digest: bytes) -> Decision | None:
    match entry.content:
        case PlanApproved(plan_digest=plan, lead=lead, by=by, until=until) if plan == digest:
            return Decision(entry.time, site, "approved", lead, by, until or "the end of the run", "")
        case PlanRefused(plan_digest=plan, lead=lead, by=by, code=code, reason=reason) if plan == digest:
            return Decision(entry.time, site, "refused", lead, by, "", f"{code}: {reason}")
        case Withdrawn(plan_digest=plan, reason=reason) if plan == digest:
            return Decision(entry.time, site, "withdrawn", "", "steward", "", reason)
        case RunNote(plan_digest=plan, code=code, text=text) if plan == digest:
            return Decision(entry.time, site, "note", "", "guard", "", f"{code}: {text}")
    return None


def _loose(book: SiteBook) -> list[Decision]:
    """Entries that are about no plan."""
    found = []
    for entry in book.entries:
        match entry.content:
            case Recovered(removed_bytes=removed):
                words = f"{removed} bytes of a torn write cut off"
                found.append(Decision(entry.time, book.site, "recovered", "", "guard", "", words))
            case PopulationChanged() as changed:
                found.append(Decision(entry.time, book.site, POPULATION, "", "guard", "", changed.words))
    return found


def absences(study: Study) -> list[tuple[str, str, str, str]]:
    """When, site, code, where: refusals by which a site stayed out of the run or of a round, as the coordinator tells them."""
    if study.server is None:
        return []
    found = [(one.at, one.site, one.code, "before a round") for one in study.server.refused if one.code not in _TIMING]
    for ended in study.server.ended.values():
        for drop in ended.dropped:
            if drop.code not in _TIMING:
                found.append((ended.at, drop.site, drop.code, f"round {ended.round}, {drop.phase}"))
    return sorted(found)


# What left.


def _egress(book: SiteBook) -> list[Egress]:
    rows = []
    for digest, run_id in book.named.items():
        manifest = book.manifest(digest)
        rows += _listed(book.site, run_id, manifest) if manifest is not None else _signed_only(book, run_id, digest)
    return rows


def _listed(site: str, run_id: str, manifest: Manifest) -> list[Egress]:
    """Kinds of answers in the order in which a run has them, with the bytes of their parts."""
    kinds: dict[str, list[int]] = {}
    for answer in manifest.answers:
        row = kinds.setdefault(answer.kind, [0, 0, 0])
        row[0] += 1
        row[1] += sum(part.bytes for part in answer.parts if part.masked)
        row[2] += sum(part.bytes for part in answer.parts if not part.masked)
    return [Egress(site, run_id, kind, *row) for kind, row in kinds.items()]


def _signed_only(book: SiteBook, run_id: str, digest: bytes) -> list[Egress]:
    """Without a manifest: how many updates left, as the ledger says."""
    rounds = book.uploaded(digest)
    return [] if rounds is None else [Egress(book.site, run_id, UPDATE, len(rounds), None, None)]


# Measurements.


def read_evidence(path: Path, data: bytes) -> Evidence:
    """A measurement as its file tells it; what is no such file is shown as that, and never trusted."""
    try:
        found = json.loads(data, parse_constant=_refused_constant)
    except (ValueError, RecursionError, DocumentError):
        return Evidence(path, "", {}, "not JSON: damaged, or another kind of file")
    if not isinstance(found, dict) or found.get("kind") not in ("canary", "membership"):
        return Evidence(path, "", {}, "no measurement that this version knows (kind canary or membership)")
    return Evidence(path, str(found["kind"]), found, "")


def _refused_constant(text: str) -> object:
    raise DocumentError(f"{text} is no number of JSON")
