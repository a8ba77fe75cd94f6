"""The report as one HTML page: no script, no request to anywhere, everything escaped, the same bytes for the same books.

A content policy in the page itself forbids scripts and every request, in case an escape were ever forgotten.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from consortium.wire import SENTENCES
from privacy import report_words as words
from privacy.cli_books import Given
from privacy.compare import Finding, ranges
from privacy.report import POPULATION, Decision, Evidence, Facts, Figure, RoundLine, SiteFacts, Study, absences
from privacy.report_charts import budget_chart
from privacy.report_html import Cell, Html, bullets, code, element, join, paragraph, table, tag, text
from privacy.report_style import STYLE

OPEN_MOST: Final = 40  # rounds: a longer list is folded on the screen, and printed all the same
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_NONE: Final = "none"


def page(facts: Facts, files: Sequence[Given]) -> str:
    """The whole page. `files`: what was read to make it."""
    sections: tuple[tuple[str, Callable[[Facts], Html]], ...] = (
        ("What is promised to a patient", _promise),
        ("Privacy spent, by hospital", _budgets),
        ("Studies: who approved what, and every round", _studies),
        ("Refusals and absences", _refusals),
        ("What left the hospitals", _egress),
        ("The coordinator's books against the hospitals'", _comparison),
        ("Measurements beside the proof", _evidence),
        ("What this report cannot say", lambda _: bullets(words.LIMITS)),
        ("How to check this page yourself", lambda given: _checking(given, files)),
    )
    numbered = [(f"s{number}", f"{number}. {title}", make) for number, (title, make) in enumerate(sections, 1)]
    links = join(element("li", element("a", title.partition(" ")[2], href=f"#{anchor}")) for anchor, title, _ in numbered)
    body = [_head(facts), _verdict(facts), _cards(facts), element("nav", element("ol", links), aria_label="Contents")]
    body += [element("section", join([element("h2", title, id=anchor), make(facts)])) for anchor, title, make in numbered]
    title = f"{facts.told.title}, {_consortium(facts)}, {facts.as_of}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(POLICY)}"><meta name="referrer" content="no-referrer">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}</title><style>{STYLE}</style>'
        f"</head><body><main>{''.join(map(text, body))}</main></body></html>\n"
    )


# The top of the page.


def _consortium(facts: Facts) -> str:
    return ", ".join(sorted({site.book.report.consortium for site in facts.sites})) or "no consortium"


def _head(facts: Facts) -> Html:
    names = ", ".join(site.name for site in facts.sites)
    sub = f"Consortium {_consortium(facts)}; hospitals {names}; as of {facts.as_of}"
    banner = "" if facts.private else element("div", words.NOT_PRIVATE, class_="banner", role="alert")
    return join([element("h1", facts.told.title), paragraph(sub, class_="sub"), text(Html(banner))])


def _verdict(facts: Facts) -> Html:
    """Whether the books are to be believed, each with the first reason not to."""
    words_ = "Every ledger verified" if facts.ok else "NOT everything in these books holds"
    rows: list[Sequence[Cell]] = [_ledger_row(site) for site in facts.sites]
    found = table("Verdict on each ledger", ("~hospital", "~verdict", "what was found first", "~key told"), rows)
    parts = [element("h2", f"{words_} (as of {facts.as_of})"), found]
    if facts.comparison is not None:
        problems = facts.comparison.problems
        said = f"contradictions: {len(problems)}, first: {_sentence(problems[0])}" if problems else "no contradiction was found"
        good = tag("AGREE", "good") if not problems else tag("DISAGREE", "bad")
        parts.append(paragraph(good, f" Coordinator against hospitals, runs compared: {len(facts.comparison.runs)}; {said}"))
    if bad := [link for link in facts.links if not link.ok]:
        parts.append(paragraph(tag("MANIFEST", "bad"), f" {bad[0].site}, run {bad[0].run_id}: {bad[0].sentence}"))
    return element("div", join(parts), class_="verdict good" if facts.ok else "verdict bad")


def _ledger_row(site: SiteFacts) -> Sequence[Cell]:
    problems, head = site.problems, site.book.head is not None
    verdict = tag("FAILED", "bad") if problems else tag("VERIFIED", "good")
    whole = f"{len(site.book.entries)} entries: chain, signatures, rounds and claimed epsilons hold"
    beside = "" if head else "; no head file beside it, so an older copy would not be noticed"
    key = {"agrees": "agrees", "differs": "DIFFERS"}.get(site.key, "not told")
    return (_site_name(site), verdict, problems[0] if problems else f"{whole}{beside}", key)


def _site_name(site: SiteFacts) -> str:
    return f"{site.name} ({site.book.report.population})"


def _cards(facts: Facts) -> Html:
    charged = [site.worst.charged for site in facts.sites if site.worst]
    exposed = [site.worst.exposed for site in facts.sites if site.worst]
    deltas = sorted({site.worst.delta for site in facts.sites if site.worst})
    shown = {
        "highest epsilon charged": epsilon_text(max(charged, default=0.0)),
        "highest epsilon if exposed": epsilon_text(max(exposed, default=0.0)),
        "delta": ", ".join(map(words.delta_text, deltas)) or _NONE,
        "hospitals": str(len(facts.sites)),
        "studies (runs)": str(len(facts.studies)),
        "rounds charged": str(sum(len(site.book.charges) for site in facts.sites)),
    }
    cells = [element("div", join([element("dt", name), element("dd", value)])) for name, value in shown.items()]
    return element("dl", join(cells), class_="cards")


def epsilon_text(value: float) -> str:
    """Three decimals, or NOT PRIVATE."""
    return f"{value:.3f}" if math.isfinite(value) else "NOT PRIVATE"


# 1. The promise.


def _promise(facts: Facts) -> Html:
    parts = [paragraph(words.UNIT), paragraph(words.BOUND)]
    worst = max((site.worst.charged for site in facts.sites if site.worst), default=0.0)
    if facts.private and math.isfinite(worst):
        said = (
            f"For the hospital that spent most, epsilon is {worst:.3f} as charged: at most {words.factor_text(worst)} times as "
            "likely. In terms of belief: somebody who knew everything else, and believed beforehand with the certainty in the "
            "first column that one given patient was among the data, can end up anywhere between the other two, and not beyond."
        )
        parts += [paragraph(said), table(*_odds_table(worst), kind="small tiny")]
    else:
        parts.append(paragraph(element("strong", words.NOT_PRIVATE)))
    return join([*parts, paragraph(words.CHARGED), paragraph(words.EXPOSED), paragraph(words.LEGAL)])


def _odds_table(epsilon: float) -> tuple[str, Sequence[str], Sequence[Sequence[Cell]]]:
    names = ("belief before", "#at least afterwards", "#at most afterwards")
    return f"What can be learnt about one patient at epsilon {epsilon:.3f} (delta left aside)", names, words.odds_rows(epsilon)


# 2. Budgets.


def _budgets(facts: Facts) -> Html:
    names = ("~hospital", "~delta", "#epsilon charged", "#checked independently", "#if exposed", "#budget", "#left", "#charges")
    rows = [row for site in facts.sites for row in _figure_rows(site)]
    intro = (
        "Recomputed for this page from the releases that the ledgers record, over all runs together. Two independent computations "
        "must agree; the second gives a range that contains the truth."
    )
    note = (
        "A budget stands here only where it was told to whoever made this page: a hospital's policy file holds it, and is no part "
        "of its ledger."
    )
    charts = join(_charts(site) for site in facts.sites)
    studies = table(
        "Epsilon by study and hospital",
        ("study", "~hospital", "#rounds charged", "#this study alone", "#alone, if exposed", "#all studies up to its end"),
        [_study_row(study, at) for study in facts.studies for at in range(len(study.sites))],
    )
    added = paragraph("Epsilons of studies do not simply add up: the last column is what the hospital's charges come to together.")
    spent = table("Epsilon spent, by hospital", names, rows)
    return join([paragraph(intro), spent, paragraph(note, class_="note"), element("div", charts, class_="charts"), studies, added])


def _figure_rows(site: SiteFacts) -> list[Sequence[Cell]]:
    if not site.figures:
        return [(_site_name(site), _NONE, "0", "", "0", _budget(site.budget), _left(site.budget, 0.0), "0")]
    return [_figure_row(site, figure) for figure in site.figures]


def _figure_row(site: SiteFacts, figure: Figure) -> Sequence[Cell]:
    low, high = figure.independent.lower, figure.independent.upper
    ends = dict.fromkeys((epsilon_text(low), epsilon_text(high)))  # one figure where both ends are written alike
    checked = " to ".join(ends)
    return (
        _site_name(site),
        words.delta_text(figure.delta),
        epsilon_text(figure.charged),
        checked if figure.agree else join([tag("DISAGREES", "bad"), text(f" {checked}")]),
        epsilon_text(figure.exposed),
        _budget(site.budget),
        _left(site.budget, figure.charged),
        str(len(site.steps.get(figure.delta, ()))),
    )


def _budget(budget: float | None) -> str:
    return "not told" if budget is None else f"{budget:g}"


def _left(budget: float | None, spent: float) -> Cell:
    if budget is None:
        return ""
    left = budget - spent
    return f"{left:.3f}" if left >= 0.0 else join([tag("OVERSPENT", "bad"), text(f" {-left:.3f}" if math.isfinite(left) else "")])


def _charts(site: SiteFacts) -> Html:
    figures = []
    for delta, steps in sorted(site.steps.items()):
        name = f"{_site_name(site)}: epsilon charged at delta {words.delta_text(delta)}"
        chart = Html(budget_chart(steps, budget=site.budget, name=name))
        figures.append(element("figure", join([element("figcaption", name), chart])))
    return join(figures)


def _study_row(study: Study, at: int) -> Sequence[Cell]:
    part = study.sites[at]
    figures = (part.charged, part.exposed, part.after)
    return (study.run_id, part.site, str(part.rounds), *(epsilon_text(value) for value in figures))


# 3. Studies.


def _studies(facts: Facts) -> Html:
    return join(_study(study) for study in facts.studies) if facts.studies else paragraph("No plan is named in these ledgers.")


def _study(study: Study) -> Html:
    parts = [element("h3", f"Study {study.run_id}")]
    if not study.private:
        parts.append(element("div", f"NOT PRIVATE: {study.run_id} released without noise.", class_="banner"))
    parts += [_study_facts(study), _approvals(study)]
    if study.rounds or study.server is not None:
        parts += [_releases(study), _fewer(study), _rounds(study)]
    return join(parts)


def _study_facts(study: Study) -> Html:
    rows: list[Sequence[Cell]] = [("plan, by digest", code(study.digest.hex()))]
    if study.server is None:
        rows.append(("plan and coordinator", "no folder of this run was given: what follows is from the ledgers alone"))
        return table(f"The plan of {study.run_id}", ("fact", "as signed"), rows, kind="small")
    plan, run = study.server.plan, study.server
    rests = "the founders whose fingerprint was told" if run.vouched else "this folder alone: no founders' fingerprint was told"
    mode = f"mode {plan.privacy.mode}, delta {words.delta_text(plan.privacy.delta)}"
    stated = f"; at most {plan.privacy.epsilon_exposed:.3f} if exposed, {plan.privacy.epsilon_model:.3f} for the model"
    rows += [
        ("signed by", f"{plan.lead}, made {plan.created}; roster and plan rest on {rests}"),
        ("task and model", f"{plan.task.name} {plan.task.version}; {plan.model.name}, {plan.n_parameters} numbers"),
        ("data used", f"{', '.join(plan.task.columns)} ({', '.join(plan.task.modalities)})"),
        ("privacy stated", f"{mode}{stated if plan.private else ': NOT PRIVATE'}"),
        ("hospitals", ", ".join(plan.sites)),
        ("rounds", f"{plan.schedule.rounds} meant, at most {plan.schedule.max_train} answered; {len(run.opened)} opened a sum"),
        ("state", f"{run.state}; {run.started_at[:19]} to {run.last_at[:19]} (UTC), by the coordinator's journal"),
    ]
    return table(f"The plan of {study.run_id}", ("fact", "as signed"), rows, kind="small")


def _approvals(study: Study) -> Html:
    if not study.decisions:
        return paragraph("No ledger that was given has a decision about this plan.")
    names = ("~hospital", "~when (UTC)", "~decision", "plan of", "decided by", "until", "in words")
    return table(f"Decisions of the hospitals about {study.run_id}", names, [_decision_row(one) for one in study.decisions])


def _decision_row(one: Decision) -> Sequence[Cell]:
    how = {"approved": "good", "refused": "bad", "withdrawn": "bad"}.get(one.what, "mind")
    return (one.site, one.time, tag(one.what, how), one.lead, one.by, one.until, _coded(one.words))


def _coded(said: str) -> str:
    """A code with its fixed sentence, where the words begin with one."""
    name, _, rest = said.partition(": ")
    return f"{SENTENCES[name]} ({name}) {rest}" if name in SENTENCES else said


def _releases(study: Study) -> Html:
    if not study.releases:
        return paragraph("No ledger that was given has a charge for this plan.")
    rows = [(one.label, one.words if one.private else tag(one.words, "bad"), str(one.charges)) for one in study.releases]
    return table(f"Kinds of release in {study.run_id}", ("~label", "each charge released", "#charges"), rows, kind="small")


def _fewer(study: Study) -> Html:
    """Sums over fewer sites than the plan has, equal ones together."""
    if study.server is None:
        return paragraph("Which hospitals were in which sum, only the coordinator's folder tells, and it was not given.")
    rounds: dict[tuple[tuple[str, ...], str], list[int]] = {}
    for ended in study.fewer:
        reasons = ", ".join(f"{drop.site}: {drop.code} at {drop.phase}" for drop in ended.dropped)
        rounds.setdefault((study.missing(ended), reasons), []).append(ended.round)
    if not rounds:
        return paragraph("Every round that opened a sum had all hospitals of the plan in it, by the coordinator's journal.")
    rows = [(ranges(numbers), ", ".join(missing), why or "not in the epoch") for (missing, why), numbers in rounds.items()]
    caption = f"Rounds of {study.run_id} over fewer hospitals ({len(study.fewer)} of {len(study.server.opened)} opened)"
    return table(caption, ("~rounds", "without", "why, by the journal"), rows, kind="small")


def _rounds(study: Study) -> Html:
    if not study.rounds:
        return Html("")
    everybody = tuple(sorted(part.site for part in study.sites))
    names = ("#round", "~purpose", "~charged at (UTC)", "released", "charged by", "in the sum", "~model sent")
    rows = [_round_row(line, everybody, study) for line in study.rounds]
    found = table(f"All rounds of {study.run_id}", names, rows, kind="rounds")
    summary = element("summary", f"All {len(study.rounds)} rounds of {study.run_id}, one by one")
    return Html(f"<details{' open' if len(rows) <= OPEN_MOST else ''}>{summary}{found}</details>")


def _round_row(line: RoundLine, everybody: tuple[str, ...], study: Study) -> Sequence[Cell]:
    models: Cell = code(line.models[0]) if len(line.models) == 1 else tag(f"{len(line.models)} DIFFERENT", "bad")
    return (
        str(line.number),
        line.purpose,
        line.time[:19].replace("T", " ").rstrip("Z"),
        " ".join(line.releases),
        _sites(line.charged, everybody),
        _in_sum(line, study),
        models if line.models else "",
    )


def _sites(sites: Sequence[str], everybody: Sequence[str]) -> str:
    if len(everybody) > 2 and tuple(sorted(sites)) == tuple(everybody):
        return f"all {len(everybody)}"
    return ", ".join(sites) or _NONE


def _in_sum(line: RoundLine, study: Study) -> str:
    if study.server is None:
        return "not given"
    if line.ended is None:
        return "no end in the journal" if line.number in study.server.asked else "NOT IN THE JOURNAL"
    return _sites(line.ended.survivors, study.server.plan.sites) if line.ended.opened else f"not opened: {line.ended.code}"


# 4. and 5. Refusals, and what left.


def _refusals(facts: Facts) -> Html:
    refused = [(study, one) for study in facts.studies for one in study.decisions if one.what in ("refused", "withdrawn")]
    rows: list[Sequence[Cell]] = [(one.site, study.run_id, one.time, one.what, _coded(one.words)) for study, one in refused]
    own = table(
        "Refused or withdrawn, by the hospitals' own ledgers", ("~hospital", "study", "~when (UTC)", "~what", "reason"), rows
    )
    told: list[Sequence[Cell]] = [
        (site, study.run_id, at[:19], where, f"{SENTENCES.get(name, 'A code of another version.')} ({name})")
        for study in facts.studies
        for at, site, name, where in absences(study)
    ]
    others = table(
        "Refused, by the coordinator's journals", ("~hospital", "study", "~first seen (UTC)", "at", "fixed sentence"), told
    )
    torn = [(one.site, one.time, one.words) for one in facts.loose if one.what != POPULATION]
    changed = [(one.site, one.time, one.words) for one in facts.loose if one.what == POPULATION]
    patients = table("Whose data it was", ("~hospital", "~when (UTC)", "what changed"), changed, kind="small")
    cut = table("Recovered after a crash", ("~hospital", "~when (UTC)", "what"), torn, kind="small")
    return join(
        [
            own if rows else paragraph("No ledger that was given records a refusal or a withdrawal."),
            others if told else paragraph("No journal that was given tells of a refusal; lateness is no refusal."),
            *([patients] if changed else []),
            *([cut] if torn else []),
        ]
    )


def _egress(facts: Facts) -> Html:
    intro = (
        "Masked bytes say nothing by themselves: only the sum over many hospitals can be opened. Bytes that are not masked are "
        "keys, signatures, sealed shares and ballots of the protocol, the same kind for every hospital."
    )
    if not facts.egress:
        return join([paragraph(intro), paragraph("No egress manifest was given, and the ledgers have no entry about one.")])
    names = ("~hospital", "study", "kind of answer", "#answers", "#masked", "#not masked")
    rows = [
        (row.site, row.run_id, row.kind, f"{row.answers:,}", _size(row.masked), _size(row.plain))
        for row in facts.egress
        if row.answers
    ]
    links = [
        (link.site, link.run_id, tag("FITS" if link.ok else "DOES NOT FIT", "good" if link.ok else "bad"), link.sentence)
        for link in facts.links
    ]
    linked = table("Manifests against the signed ledgers", ("~hospital", "study", "~verdict", "in words"), links, kind="small")
    return join([paragraph(intro), table("What left, by kind", names, rows), *([linked] if links else [])])


def _size(size: int | None) -> str:
    return "no manifest" if size is None else words.bytes_text(size)


# 6. and 7. Comparison and measurements.


def _comparison(facts: Facts) -> Html:
    found = facts.comparison
    if found is None:
        return paragraph("No folder of a coordinator was given: a run that a hub or a hospital hides would not be noticed here.")
    intro = (
        "A hospital's ledger is signed by the hospital, a coordinator's journal by nobody. That both agree does not prove "
        "that they tell the truth together; a difference proves that one of them is wrong or older."
    )
    counts = [
        (row.run, row.site, str(row.asked), str(row.counted), str(row.proven), str(row.charged) if row.given else "no ledger")
        for row in found.rows
    ]
    names = (
        "study",
        "~hospital",
        "#asked, by the journal",
        "#in a sum, by the journal",
        "#own signature seen",
        "#charged, by its ledger",
    )
    parts = [paragraph(intro), table("Rounds, by both books", names, counts)]
    findings = (*found.problems, *found.remarks)
    if not found.problems:
        parts.append(paragraph(tag("AGREE", "good"), " No contradiction was found."))
    if findings:
        rows = [(_where(one), tag("PROBLEM", "bad") if one.grave else tag("remark", "mind"), *_said(one)) for one in findings]
        parts.append(table("What was found", ("where", "~weight", "what", "can mean", "does not say"), rows))
    return join(parts)


def _said(one: Finding) -> tuple[str, str, str]:
    return f"{one.meaning.title}: {one.text}", one.meaning.can_mean, one.meaning.cannot_mean


def _where(one: Finding) -> str:
    rounds = f"round {ranges(one.rounds)}" if one.rounds else ""
    return ", ".join(part for part in (one.run, one.site, rounds) if part) or "the books"


def _sentence(one: Finding) -> str:
    return f"{_where(one)}: {one.meaning.title}: {one.text}"


def _evidence(facts: Facts) -> Html:
    kinds = {one.kind for one in facts.evidence}
    parts = [paragraph(words.CANARY)] if "canary" in kinds or not kinds else []
    parts += [paragraph(words.MEMBERSHIP)] if "membership" in kinds else []
    if not facts.evidence:
        return join([*parts, paragraph("No measurement was given: what stands above is the proof alone.")])
    names = ("study", "~kind", "~verdict", "#claimed", "#estimate", "#at least", "~confidence", "#canaries", "#rounds")
    rows = [_evidence_row(one) for one in facts.evidence]
    said = [
        paragraph(element("strong", f"{one.path.name}: "), _value(one.values, "words")) for one in facts.evidence if not one.flaw
    ]
    return join([*parts, table("Measurements", names, rows), *said])


def _evidence_row(one: Evidence) -> Sequence[Cell]:
    if one.flaw:
        return (one.path.name, "unreadable", tag(one.flaw, "bad"), *[""] * 6)
    verdict = _value(one.values, "verdict")
    how = {"pass": "good", "investigate": "mind"}.get(verdict, "bad")
    keys = ("claimed_epsilon", "estimate", "lower_bound", "confidence", "canaries", "rounds")
    return (_value(one.values, "run_id"), one.kind, tag(verdict, how), *(_value(one.values, key) for key in keys))


def _value(values: Mapping[str, object], key: str) -> str:
    """What a measurement's file says under a key; a file is nobody's promise, so any type may stand there."""
    found = values.get(key)
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        return "not stated"
    return f"{found:g}" if isinstance(found, float) else str(found)


# 9. Checking.


def _checking(facts: Facts, files: Sequence[Given]) -> Html:
    parts = [
        paragraph("This page is nobody's word: whoever has the files below can make it again, byte by byte."),
        element("h3", "The commands"),
        element("pre", _commands(facts)),
        element("h3", "Keys, to compare by telephone with each hospital"),
        table("Fingerprints and the newest entry of each ledger", *_keys(facts), kind="small"),
        element("h3", "The files this page was made from"),
        table("Files", ("file", "~what", "#bytes", "SHA-256"), [_file_row(one) for one in files]),
    ]
    return join(parts)


def _commands(facts: Facts) -> Html:
    """Not one text: line ends are kept, each line is escaped."""
    lines = ["pip install .        # in a copy of the source: no training software, no network needed afterwards"]
    for site in facts.sites:
        lines.append(f"wardround-audit verify {site.book.path} --key {site.book.report.fingerprint or 'FINGERPRINT'}")
    lines += [f"wardround-audit epsilon {site.book.path}" for site in facts.sites[:1]]
    if facts.comparison is not None:
        ledgers = " ".join(str(site.book.path) for site in facts.sites)
        lines.append(f"wardround-audit compare RUN-FOLDER {ledgers} --founders FINGERPRINT")
    lines.append(f"wardround-audit report THE-SAME-FILES --date {facts.as_of} --out report.html")
    return Html("\n".join(text(line) for line in lines))


def _keys(facts: Facts) -> tuple[Sequence[str], Sequence[Sequence[Cell]]]:
    rows = [
        (
            _site_name(site),
            code(site.book.report.fingerprint),
            str(len(site.book.entries) - 1),
            site.book.last_time,
            code(site.book.entries[-1].hash.hex()),
        )
        for site in facts.sites
    ]
    return ("~hospital", "fingerprint of its key", "#entry", "~written (UTC)", "hash of that entry"), rows


def _file_row(one: Given) -> Sequence[Cell]:
    return (str(one.path), one.what, f"{one.size:,}", code(one.sha256))
