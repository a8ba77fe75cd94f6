"""Coordinator and sites tell of the same runs: every way in which their books contradict each other, named by run, site and round.

Nobody is believed. A ledger is signed by its site and cannot be altered by anybody else; a site can hide entries only by handing
over another ledger. A coordinator's journal is signed by nobody. Where both agree, both may still be lying together; where they
differ, at least one is wrong, and `MEANINGS` says for each finding which one it can be. Pure: books in, findings out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from privacy import compare_rounds
from privacy.accountant import ENFORCE_INTERVAL, epsilon
from privacy.compare_rounds import SitePart, Trouble
from privacy.entries import recorded
from privacy.events import Spend
from privacy.run_folder import ServerRun
from privacy.site_book import SiteBook
from privacy.verify import compare as forks_between


@dataclass(frozen=True)
class Meaning:
    """What a kind of finding is called, what can be behind it, and what it does not say. `grave`: it fails the comparison."""

    title: str
    grave: bool
    can_mean: str
    cannot_mean: str


_COPIES: Final = "or one of the two copies is older than the other: ask for both again, taken after the run"

MEANINGS: Final[Mapping[str, Meaning]] = {
    "ledger": Meaning(
        "a ledger does not verify",
        True,
        "the file was damaged, or altered by somebody without the site's key; what stands after the named entry was not compared",
        "that the site spent more: an altered line cannot be told from a damaged one",
    ),
    "fork": Meaning(
        "two copies of one ledger part",
        True,
        "the site kept two histories, or its machine was set back to an older state and went on from there",
        "which of the two is true: both are signed",
    ),
    "key": Meaning(
        "ledger and roster name different keys for a site",
        True,
        "this is another site's ledger, a ledger from before the site's key was replaced, or a roster that the coordinator made up",
        "anything about epsilon; with --founders at least the roster is known to be the consortium's",
    ),
    "folder": Meaning(
        "a run folder contradicts itself or its documents",
        True,
        "the folder was edited or put together from several runs, or the roster is not of the founders that were named",
        "anything about the sites",
    ),
    "run-unknown": Meaning(
        "a run that the coordinator does not show",
        True,
        "the coordinator hides a run, its folder was not handed over, or another coordinator drove it",
        "that the run was secret to the site: the site's steward or policy approved its plan",
    ),
    "round-unknown": Meaning(
        "a round that the coordinator does not show",
        True,
        f"the coordinator hides a round (its journal is written before it asks, so a crash does not explain it), {_COPIES}",
        "that the spend is not real: it counts, whatever the coordinator says",
    ),
    "run-missing": Meaning(
        "a run that a site's ledger does not have",
        True,
        f"the site hides a run or keeps another ledger, the coordinator invents the site's part in it, {_COPIES}",
        "which of them it is, unless the site's own signature lies in the run's records (--founders)",
    ),
    "spend-missing": Meaning(
        "a round that a site's ledger does not have",
        True,
        f"the site released without charging it or handed over another ledger, the coordinator invents its part, {_COPIES}",
        "which of them it is, unless the site's own signature lies in the round's record (--founders)",
    ),
    "plan": Meaning(
        "two plans under one name",
        True,
        "the coordinator showed different plans to different parties, or two runs were given one name",
        "that either plan was not approved: the ledger says what the site approved, by digest",
    ),
    "purpose": Meaning(
        "site and coordinator tell of different kinds of round",
        True,
        "the coordinator's journal is not the one by which it asked",
        "that the site was charged wrongly: it is charged for what it released",
    ),
    "model": Meaning(
        "site and coordinator name different models",
        True,
        "the coordinator sent the site another model than the one it shows; one made for a site can draw more out of its patients "
        "than the common one, though never more than epsilon",
        "that the sum was opened: sites that got different models cannot open a sum together",
    ),
    "models-split": Meaning(
        "two sites were given different models in one round",
        True,
        "the coordinator treated sites differently on purpose; two signed ledgers prove it against whoever drove the round",
        "that the sum was opened: sites that got different models cannot open a sum together",
    ),
    "mechanism": Meaning(
        "a site charged another mechanism than the plan",
        True,
        "the site runs altered or other code, or was shown another plan; what was really released is what it charged, or worse",
        "that epsilon is wrong as charged: the verdict on the ledger says whether it follows from what the ledger records",
    ),
    "limit": Meaning(
        "more rounds than the plan allows",
        True,
        "the site answered beyond the plan that it approved: altered code, or a ledger written by hand",
        "that the rounds were not charged: they were",
    ),
    "above-plan": Meaning(
        "a run cost more than its whole plan may",
        True,
        "rounds were charged again after a site lost files of the run, or there are rounds that the plan does not have",
        "that the site's policy was broken: the policy is not in these books",
    ),
    "uncharged": Meaning(
        "an update left a site without a charge",
        True,
        "the site released without charging it: altered code, or a ledger from which the charge is gone",
        "that somebody could read it: an update is masked",
    ),
    "manifest": Meaning(
        "an egress manifest does not fit its ledger",
        True,
        "lines were edited, removed or added after they left the site's guard, or the manifest is of another site",
        "anything about epsilon",
    ),
    "unlisted": Meaning(
        "an update is in a sum and the site lists none",
        True,
        "the manifest that was handed over is not whole, or the coordinator invents the site's part",
        "which of them it is, unless the site's own signature lies in the round's record (--founders)",
    ),
    "left-out-silently": Meaning(
        "an update left a site and the coordinator gives no reason why it is not in the sum",
        True,
        "the coordinator left the site out on purpose and does not say so; a sum over chosen sites says more about those",
        "that the update was read: it is masked, and counts for the site in any case",
    ),
    "receipt": Meaning(
        "a published epsilon is not the ledger's",
        True,
        f"the site published another figure than its ledger gives, the coordinator altered it, {_COPIES}",
        "which figure is true of the patients: the ledger's is recomputed here from its mechanisms",
    ),
    "record": Meaning(
        "the records of a run do not prove what its journal says",
        True,
        "a record was removed or altered, or the journal counts a site whose signature is not there",
        "that the sum was false: `wardround-audit round` with the vectors recomputes it",
    ),
    "fewer-sites": Meaning(
        "rounds over fewer sites",
        False,
        "sites were late, refused, restarted or unreachable, or the coordinator preferred to do without them",
        "that anything was read: a sum opens only over as many sites as the roster's numbers demand",
    ),
    "left-out": Meaning(
        "an update left a site and is not in the sum, for a reason that the coordinator gives",
        False,
        "it was late, lost or refused as the journal says, or the coordinator left the site out and gives that as the reason",
        "that it did not cost anything: it was charged, and nothing is refunded",
    ),
    "no-approval": Meaning(
        "the coordinator counts on a site whose ledger has no approval of the plan",
        False,
        f"the site's guard is of an older version that did not record approvals, {_COPIES}",
        "that nobody approved: the guard answers no plan without an approval",
    ),
    "not-given": Meaning(
        "sites of a run whose ledgers were not given",
        False,
        "nothing was compared for them",
        "that there is anything to find",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One contradiction or remark. `site` is empty where it is about no single one, `rounds` where it is about none."""

    code: str
    run: str
    site: str
    rounds: tuple[int, ...]
    text: str

    @property
    def meaning(self) -> Meaning:
        return MEANINGS[self.code]

    @property
    def grave(self) -> bool:
        return self.meaning.grave


@dataclass(frozen=True)
class Row:
    """One site in one run, by both books; counts of rounds. `epsilon`: of the site's charges in this run alone, -1 for not private.

    `asked`: rounds whose epoch the site was in, by the coordinator. `counted`: rounds whose sum it is in. `charged`: by the ledger.
    """

    run: str
    site: str
    given: bool
    asked: int
    counted: int
    proven: int
    charged: int
    epsilon: float
    delta: float


@dataclass(frozen=True)
class Comparison:
    runs: tuple[ServerRun, ...]
    books: tuple[SiteBook, ...]
    findings: tuple[Finding, ...]
    rows: tuple[Row, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.grave)

    @property
    def remarks(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.grave)

    @property
    def ok(self) -> bool:
        return not self.problems


def compare_books(runs: Sequence[ServerRun], books: Sequence[SiteBook], *, only: str = "") -> Comparison:
    """Everything that these runs and ledgers contradict each other in. `only`: a run id, to look at nothing else."""
    looked = [run for run in runs if only in ("", run.run_id)]
    newest = _newest(books)
    parts = [(run, site, SitePart.of(run, site, newest)) for run in looked for site in run.plan.sites]
    findings = [
        *_forks(books),
        *(Finding("ledger", "", book.site, (), book.report.problems[0]) for book in books if book.report.problems),
        *(Finding("folder", run.run_id, "", (), flaw) for run in looked for flaw in run.flaws),
        *(finding for run in looked for finding in _records(run)),
        *(finding for _, _, part in parts if part.books for finding in _grouped(part, compare_rounds.troubles(part))),
        *_unknown_runs(runs, newest, only),
        *_manifests(newest, only),
        *_split_models(looked, newest, only),
        *(finding for run in looked for finding in _fewer(run)),
        *_not_given(looked, newest),
    ]
    return Comparison(tuple(looked), tuple(newest), tuple(findings), tuple(_row(*part) for part in parts))


def _newest(books: Sequence[SiteBook]) -> list[SiteBook]:
    """Of several copies of one site's ledger of one population, the longest."""
    longest: dict[tuple[bytes, str], SiteBook] = {}
    for book in books:
        key = (book.genesis.identity_key, book.genesis.population)
        if key not in longest or len(book.entries) > len(longest[key].entries):
            longest[key] = book
    return sorted(longest.values(), key=lambda book: (book.site, book.genesis.population))


def _forks(books: Sequence[SiteBook]) -> list[Finding]:
    names = ", ".join(f"{number} {book.path}" for number, book in enumerate(books, 1))
    return [Finding("fork", "", "", (), f"{parting} ({names})") for parting in forks_between([book.data for book in books])]


def _records(run: ServerRun) -> Iterator[Finding]:
    """What the opened records prove, beside what the journal says."""
    if run.proofs is None:
        return
    for problem in run.proofs.problems:
        yield Finding("record", run.run_id, "", (), problem)
    for ended in run.opened:
        proven = run.proofs.survivors.get(ended.round)
        if proven is None:
            text = f"round {ended.round} was opened, and no record of it proves anything"
            yield Finding("record", run.run_id, "", (ended.round,), text)
        elif set(proven) != set(ended.survivors):
            text = f"round {ended.round}: the journal counts {', '.join(ended.survivors)}, the record proves {', '.join(proven)}"
            yield Finding("record", run.run_id, "", (ended.round,), text)


def _grouped(part: SitePart, troubles: Iterable[Trouble]) -> Iterator[Finding]:
    """Equal troubles of one site in several rounds are one finding that lists them."""
    rounds: dict[tuple[str, str], list[int]] = {}
    for trouble in troubles:
        rounds.setdefault((trouble.code, trouble.text), []).extend(trouble.rounds)
    for (code, text), numbers in rounds.items():
        listed = tuple(sorted(set(numbers)))
        yield Finding(code, part.run.run_id, part.site, listed, text)


def _unknown_runs(runs: Sequence[ServerRun], books: Sequence[SiteBook], only: str) -> Iterator[Finding]:
    """Plans in a ledger that no folder is of: under another run's name, or under none that was given."""
    shown = {run.run_id: run.plan.digest for run in runs}
    for book in books:
        for digest, run_id in book.named.items():
            if digest in shown.values() or only not in ("", run_id):
                continue
            rounds = tuple(sorted(book.by_plan.get(digest, {})))
            if run_id in shown:
                text = f"{book.site} has plan {digest.hex()} under this name, the coordinator shows {shown[run_id].hex()}"
                yield Finding("plan", run_id, book.site, rounds, text)
            elif rounds:
                text = f"{book.site} charged {len(rounds)} rounds of plan {digest.hex()}; no folder that was given is of this plan"
                yield Finding("run-unknown", run_id, book.site, rounds, text)


def _manifests(books: Sequence[SiteBook], only: str) -> Iterator[Finding]:
    for book in books:
        for file, linked in book.linked:
            if linked.problems and only in ("", linked.run_id):
                yield Finding("manifest", linked.run_id, book.site, (), f"{file.path}: {linked.problems[0].text}")


def _split_models(runs: Sequence[ServerRun], books: Sequence[SiteBook], only: str) -> Iterator[Finding]:
    """Rounds in which the ledgers of two sites name different incoming models, whatever any coordinator says."""
    names = {run.plan.digest: run.run_id for run in runs}
    models: dict[tuple[bytes, int], dict[bytes, list[str]]] = {}
    for book in books:
        for charge in book.charges:
            names.setdefault(charge.details.plan_digest, charge.details.run_id)
            seen = models.setdefault((charge.details.plan_digest, charge.details.round), {})
            seen.setdefault(charge.details.model_hash, []).append(book.site)
    for (digest, number), seen in models.items():
        if len(seen) > 1 and only in ("", names[digest]):
            said = "; ".join(f"{', '.join(sites)}: {model.hex()[:16]}" for model, sites in sorted(seen.items()))
            yield Finding("models-split", names[digest], "", (number,), f"the models that these sites were given differ: {said}")


def _fewer(run: ServerRun) -> Iterator[Finding]:
    """Opened rounds without all sites of the plan, equal ones together, with the reasons that the journal gives."""
    rounds: dict[str, list[int]] = {}
    for ended in run.opened:
        if missing := [site for site in run.plan.sites if site not in ended.survivors]:
            reasons = [f"{site} ({_reason(run, ended.round, site)})" for site in missing]
            text = f"{len(ended.survivors)} of {len(run.plan.sites)} sites in the sum, without {', '.join(reasons)}"
            rounds.setdefault(text, []).append(ended.round)
    for text, numbers in rounds.items():
        yield Finding("fewer-sites", run.run_id, "", tuple(numbers), text)


def _reason(run: ServerRun, number: int, site: str) -> str:
    for drop in run.ended[number].dropped:
        if drop.site == site:
            return f"{drop.code} at {drop.phase}"
    asked = run.asked.get(number)
    return "not in the epoch" if asked is None or site not in asked.sites else "no reason given"


def _not_given(runs: Sequence[ServerRun], books: Sequence[SiteBook]) -> Iterator[Finding]:
    given = {book.site for book in books}
    for run in runs:
        if missing := [site for site in run.plan.sites if site not in given]:
            yield Finding("not-given", run.run_id, "", (), ", ".join(missing))


def _row(run: ServerRun, site: str, part: SitePart) -> Row:
    spends: list[Spend] = [spend for charge in part.charged.values() for spend in charge.spends]
    splits = {charge.details.split_id for charge in part.charged.values()}
    delta = run.plan.privacy.delta
    proven = run.proofs.survivors if run.proofs else {}
    return Row(
        run=run.run_id,
        site=site,
        given=bool(part.books),
        asked=sum(site in asked.sites for asked in run.asked.values()),
        counted=sum(site in ended.survivors for ended in run.opened),
        proven=sum(site in sites for sites in proven.values()),
        charged=len(part.charged),
        epsilon=recorded(epsilon(spends, delta, interval=ENFORCE_INTERVAL, split_ids=splits)),
        delta=delta,
    )


def ranges(rounds: Iterable[int]) -> str:
    """Ascending round numbers in words: 1-4, 7."""
    spans: list[list[int]] = []
    for number in rounds:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
