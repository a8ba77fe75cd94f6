"""How the auditor's ledger commands say figures and entries: in words and tables for people, in documents for programs."""

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from rich.table import Table

from consortium.canonical import Json
from consortium.identity import fingerprint
from privacy.check import Bracket
from privacy.entries import Egress, Entry, Genesis, KeyReplaced, KeyRotated, PopulationChanged, SpendRecord
from privacy.events import spend_to_document
from privacy.planned import spend_text
from privacy.verify import Figure, Report

CHARGED: Final = "epsilon (charged: every update carries its own noise)"
CHARGED_SUMS: Final = "epsilon (charged: only sums are opened, each with the noise of the counted honest sites)"
EXPOSED: Final = "epsilon if one update were read in the clear"
_UNIT: Final = "Unit: the patient with all visits and scans. Neighbours: add or remove one patient."
_SIDES: Final = "Train and held-out patients are disjoint and each have at most the epsilon shown."
_SMALL: Final = 1e-3  # below, a percentage says nothing


def guarantee(report: Report) -> str:
    """What the figures mean, and against whom they hold."""
    if report.exposed:
        against = (
            "The charged figure holds against whoever sees opened sums and models, as long as secure aggregation holds and the "
            "counted honest sites added their noise; the other one holds without either."
        )
    else:
        against = "Against everybody outside the site."
    return f"{_UNIT} {against} {_SIDES}"


def epsilon_text(value: float) -> str:
    """Four decimals, or NOT PRIVATE."""
    return "NOT PRIVATE" if math.isinf(value) else f"{value:.4f}"


def figures_table(report: Report) -> Table:
    """One row for each figure; with shares of noise in the ledger both readings of each delta, one below the other."""
    table = Table("what", "delta", "reference", "independent", "RDP: at most", "agree")
    for charged, exposed in zip_longest(report.figures, report.exposed):
        table.add_row(CHARGED_SUMS if report.exposed else CHARGED, *_figure_cells(charged))
        if exposed is not None:
            table.add_row(EXPOSED, *_figure_cells(exposed))
    return table


def _figure_cells(figure: Figure) -> tuple[str, ...]:
    return (
        f"{figure.delta:.3g}",
        epsilon_text(figure.reference),
        bracket_text(figure.independent),
        epsilon_text(figure.renyi.epsilon),
        "yes" if figure.agree else "NO",
    )


def bracket_text(bracket: Bracket) -> str:
    """The two ends, or the one value where they are the same."""
    if math.isinf(bracket.upper) or bracket.lower == bracket.upper:
        return epsilon_text(bracket.upper)
    return f"{bracket.lower:.4f} to {bracket.upper:.4f}"


def explanation(figure: Figure) -> str:
    """Why the three accountants differ, and which one to believe for what."""
    if math.isinf(figure.reference):
        return f"delta {figure.delta:.3g}: something left without noise, so there is nothing to compute."
    if not figure.agree:
        return f"delta {figure.delta:.3g}: the accountants contradict each other; believe none of them, one program has an error."
    bracket, renyi = figure.independent, figure.renyi
    if bracket.lower == bracket.upper:
        truth = f"full batches alone have a closed form, {bracket.upper:.4f}: this is the truth"
    else:
        truth = f"the truth lies between {bracket.lower:.4f} and {bracket.upper:.4f}, proven from both sides"
    return (
        f"delta {figure.delta:.3g}: {truth}. Tighter: the reference, {figure.reference:.4f}; it keeps the whole distribution of "
        f"the privacy loss on a grid and rounds upwards only. Looser: RDP, {renyi.epsilon:.4f}, {_above(figure)}: an upper bound "
        f"that loses what one moment of the loss (order {renyi.order:.4g} was best) does not say about its tail. "
        "RDP below the bracket would be an error; above it, the difference is the method's and not a patient's risk."
    )


def _above(figure: Figure) -> str:
    upper = figure.independent.upper
    if upper < _SMALL:
        return f"{figure.renyi.epsilon - upper:.2g} above the upper end"
    return f"{100.0 * (figure.renyi.epsilon / upper - 1.0):.1f} % above the upper end"


def claims_table(report: Report) -> Table:
    table = Table("entry", "delta", "claimed", "recomputed", "holds")
    for claim in report.claims:
        holds = "yes" if claim.holds else "NO"
        table.add_row(str(claim.entry), f"{claim.delta:.3g}", epsilon_text(claim.claimed), epsilon_text(claim.recomputed), holds)
    return table


def entry_cells(entry: Entry) -> tuple[str, ...]:
    """Entry, time, kind, run, round, what, epsilon after."""
    content = entry.content
    start = (str(entry.index), entry.time, entry.kind)
    if isinstance(content, SpendRecord):
        what = f"{content.details.purpose}: {'; '.join(map(spend_text, content.spends))}"
        after = "NOT PRIVATE" if content.epsilon_after < 0 else f"{content.epsilon_after:.4f}"
        return (*start, content.details.run_id, str(content.details.round), what, after)
    if isinstance(content, Genesis):
        return (*start, "", "", f"{content.site} of {content.consortium}, key {fingerprint(content.identity_key)}", "")
    if isinstance(content, Egress):
        what = f"{content.answer} left; its manifest has {content.lines} lines, {content.head.hex()[:16]}"
        return (*start, content.run_id, str(content.round), what, "")
    if isinstance(content, KeyRotated | KeyReplaced):
        keys = f"key {fingerprint(content.old_key)} to {fingerprint(content.new_key)}"
        how = f"without the old key: {content.reason}" if isinstance(content, KeyReplaced) else "signed by both"
        return (*start, "", "", f"{keys}, roster version {content.roster_version}; {how}", "")
    if isinstance(content, PopulationChanged):
        return (*start, "", "", f"{content.words}; {content.digest.hex()[:16]}", "")
    body = entry.body
    words = [
        f"{name} {body[name]}" for name in ("lead", "by", "until", "code", "reason", "text", "removed_bytes") if body.get(name)
    ]
    return (*start, str(body.get("run_id", "")), "", "; ".join(words), "")


# JSON: infinity is written as null, because JSON has no other word for it.


def _number(value: float) -> float | None:
    return None if math.isinf(value) else value


def figure_document(figure: Figure) -> dict[str, Json]:
    return {
        "agree": figure.agree,
        "delta": figure.delta,
        "explanation": explanation(figure),
        "independent_lower": _number(figure.independent.lower),
        "independent_upper": _number(figure.independent.upper),
        "private": not math.isinf(figure.reference),
        "rdp": _number(figure.renyi.epsilon),
        "rdp_order": figure.renyi.order,
        "reference": _number(figure.reference),
    }


def _figure_documents(figures: Sequence[Figure]) -> list[Json]:
    return [figure_document(figure) for figure in figures]


def report_document(report: Report) -> dict[str, Json]:
    """`epsilon`: as charged. `epsilon_exposed`: if one update were read in the clear, the same where no share is recorded."""
    return {
        "claims": [
            {
                "claimed": _number(claim.claimed),
                "delta": claim.delta,
                "entry": claim.entry,
                "holds": claim.holds,
                "recomputed": _number(claim.recomputed),
            }
            for claim in report.claims
        ],
        "consortium": report.consortium,
        "entries": report.entries,
        "epsilon": _figure_documents(report.figures),
        "epsilon_exposed": _figure_documents(report.exposed or report.figures),
        "first_bad_entry": report.first_bad,
        "first_bad_line": None if report.first_bad is None else report.first_bad + 1,
        "handovers": [
            {
                "entry": over.entry,
                "from": fingerprint(over.old_key),
                "roster_version": over.roster_version,
                "time": over.time,
                "to": fingerprint(over.new_key),
                "vouched": over.vouched,
            }
            for over in report.handovers
        ],
        "key": report.fingerprint,
        "keys": list(report.keys),
        "ok": report.ok,
        "population": report.population,
        "private": not report.non_private_entries,
        "problems": list(report.problems),
        "remarks": list(report.remarks),
        "shares": bool(report.exposed),
        "site": report.site,
        "spends": [spend_to_document(spend) for spend in report.spends],
        "spends_compared_with_plans": report.plans_checked,
    }


def entry_document(entry: Entry) -> dict[str, Json]:
    return {"body": entry.body, "hash": entry.hash.hex(), "index": entry.index, "kind": entry.kind, "time": entry.time}
