"""What the steward's page shows, as HTML that needs no script: every word of a plan, a ledger or a file is escaped.

Written for people who are no engineers: the verdict first, then what it rests on, numbers with what they mean beside them.
"""

import math
from collections.abc import Sequence
from typing import Final

from client.cli_egress import bytes_of, egress_entries, is_refusal, parts_of, summaries
from client.cli_status import lines as status_lines
from client.daemon import code_version
from client.egress import EgressManifest
from client.errors import ConfigError, SiteError
from client.home import Home
from client.page_door import SECRET
from client.plans import KnownPlan, PlanStore
from client.policy_file import PolicyFile
from client.status import refusal_lines, site_status
from client.steward import (
    NO_POLICY,
    budget_rows,
    changes,
    epsilon_words,
    last_approved,
    lead_key,
    leaves_words,
    objections,
    plan_facts,
    plan_store,
    runs_left,
    superseded,
    verified_ledger,
)
from consortium.approval import Approval
from consortium.errors import ConsortiumError
from consortium.plan import NOT_PRIVATE, PURPOSES
from consortium.roster import Roster
from privacy.entries import SpendRecord
from privacy.errors import PrivacyError
from privacy.ledger import read_entries
from privacy.manifest import verify_manifest
from privacy.report import Step
from privacy.report_charts import budget_chart
from privacy.report_html import Cell, Html, bullets, code, element, join, paragraph, table, tag, text
from privacy.report_style import STYLE as REPORT_STYLE

STYLE: Final = (
    REPORT_STYLE
    + """
body{font:16px/1.55 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
main{padding-top:20px}h1{margin:0 0 16px;overflow-wrap:anywhere}
.cards dd{font-size:19px;overflow-wrap:anywhere}
header{border-bottom:1px solid #cbd5e1;background:#f4f6f9}
header div{max-width:1080px;margin:0 auto;padding:12px 24px;display:flex;flex-wrap:wrap;gap:4px 28px;align-items:baseline}
header strong{font-size:17px}
header ul{list-style:none;display:flex;flex-wrap:wrap;gap:4px 20px;margin:0;padding:0;max-width:none}
header li{margin:0}header a{text-decoration:none;padding:2px 0}header a:hover{text-decoration:underline}
header a[aria-current]{font-weight:700;color:#1b1f24;border-bottom:3px solid #1d4f91}
.skip{position:absolute;left:-9999px}.skip:focus{left:8px;top:8px;background:#fff;padding:6px 10px}
h2{margin-top:36px}
.verdict.mind{border-color:#7a4a00}.verdict p:last-child{margin-bottom:0}
.said{background:#eaf4ec;border:1px solid #11632e;padding:10px 14px;margin:0 0 20px}
form{border:1px solid #cbd5e1;padding:14px 18px;margin:0 0 16px;max-width:640px}
fieldset{border:0;margin:0;padding:0}legend{font-weight:600;padding:0;margin-bottom:8px}
label{display:block;margin:0 0 4px}label.choice{margin:6px 0}
input[type=text],input[type=datetime-local],textarea{font:inherit;padding:7px 9px;border:1px solid #5b6675;width:100%;
max-width:460px;background:#fff;color:#1b1f24}
input[type=datetime-local]{max-width:280px}
.field{margin:10px 0 14px}
button{font:600 16px/1.2 system-ui,'DejaVu Sans',sans-serif;padding:10px 18px;border:1px solid #1d4f91;background:#1d4f91;
color:#fff;cursor:pointer}
button.no{background:#fff;color:#8f0c21;border-color:#8f0c21}button:hover{filter:brightness(.93)}
.choices{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(380px,100%),1fr));gap:16px;align-items:start}
dl.facts{display:grid;grid-template-columns:minmax(120px,220px) 1fr;gap:6px 18px;margin:0 0 20px;max-width:none}
dl.facts dt{color:#434b57}dl.facts dd{margin:0;overflow-wrap:anywhere}
.columns{columns:3 200px;padding-left:20px;max-width:none}
.chart{max-width:640px;margin:0 0 20px}
footer{max-width:1080px;margin:0 auto;padding:0 24px 32px;color:#434b57;font-size:14px}
@media (max-width:640px){dl.facts{grid-template-columns:1fr;gap:0}dl.facts dd{margin-bottom:10px}
header div,footer{padding-left:14px;padding-right:14px}.scroll table{min-width:0}table{font-size:14px}
.cards dd{font-size:16px}form>button{margin-top:8px}}
"""
)
ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" fill="#1d4f91"/>'
    '<path d="M3 4l2.5 8L8 6l2.5 6L13 4" fill="none" stroke="#fff" stroke-width="1.6"/></svg>'
)
NAVIGATION: Final = (("/", "Overview"), ("/plans", "Plans"), ("/budget", "Privacy budget"), ("/left", "What left"))
DONE: Final = {
    "approve": "Approved. It holds from the next message of this run on.",
    "approve-until": "Approved for a time. It ends by itself.",
    "refuse": "Refused. It holds from the next message of this run on.",
    "paused": "Paused: this site answers nothing from the next message on.",
    "resumed": "This site answers again.",
}
FOR: Final = {
    "describe": "To scale the numbers, once",
    "train": "To train",
    "evaluate": "To test the model",
}
ROWS_SHOWN: Final = 500  # of a manifest on one page; the command shows all


def layout(title: str, body: str, *, site: str, here: str) -> str:
    """One page; `body` is HTML that was made here."""
    links = join(
        element("li", element("a", name, href=path, **({"aria_current": "page"} if path == here else {})))
        for path, name in NAVIGATION
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>{text(title)} - {text(site)}</title><link rel="stylesheet" href="/style.css">'
        '<link rel="icon" href="/icon.svg" type="image/svg+xml"></head><body><a class="skip" href="#main">To the content</a>'
        f'<header><div><strong>Wardround, {text(site)}</strong><nav aria-label="Pages"><ul>{links}</ul></nav></div></header>'
        f'<main id="main"><h1>{text(title)}</h1>{body}</main>'
        "<footer><p>This page is served by this computer and to it alone; it ends with the program that printed its link. "
        "Every decision stands in the steward's log of this site.</p></footer></body></html>\n"
    )


def problem(words: str) -> Html:
    """Something that did not work, in words."""
    return join([box("bad", "Nothing was done", paragraph(words)), paragraph(element("a", "Back to the overview", href="/"))])


def box(how: str, title: Cell, *content: Html) -> Html:
    """A verdict: `how` is good, bad or mind, and the title says it in words."""
    return element("div", join([element("h2", title), *content]), class_=f"verdict {how}")


def facts(pairs: Sequence[tuple[str, Cell]]) -> Html:
    """Names and values."""
    inside = join(Html(f"{element('dt', name)}{element('dd', coded(value))}") for name, value in pairs)
    return element("dl", inside, class_="facts")


def coded(words: Cell) -> Html:
    """A sentence whose `commands` look like what is typed."""
    if isinstance(words, Html):
        return words
    return join(code(part) if at % 2 else text(part) for at, part in enumerate(words.split("`")))


def done_words(done: str) -> Html:
    """What an action came to; `done` is looked up, never shown."""
    return element("p", DONE[done], class_="said", role="status") if done in DONE else Html("")


def _input(**attributes: str) -> Html:
    """An element that has no end; `name_` is written as name."""
    written = "".join(f' {key.rstrip("_")}="{text(value)}"' for key, value in attributes.items())
    return Html(f"<input{written}>")


def _secret(secret: str) -> Html:
    return _input(type="hidden", name_=SECRET, value=secret)


# -- overview ------------------------------------------------------------------------------------------------------------


def overview(home: Home, secret: str, done: str) -> Html:
    """What runs, what waits for the steward, and the one switch."""
    found = site_status(home)
    document, problems = found.document, found.problems
    verdict = (
        box("good", "All is well", paragraph("Guard and gateway are up, and nothing waits for you."))
        if not problems
        else box("mind" if found.well else "bad", "Please look at this", bullets(coded(one) for one in problems))
    )
    names = {"guard": "Guard (holds the data)", "trainer": "Trainer", "gateway": "Gateway (talks to the hub)", "hub": "Hub"}
    shown = [(names.get(name, name[:1].upper() + name[1:]), value) for name, value in status_lines(document).items()]
    refusals = refusal_lines(document)
    return join(
        [
            done_words(done),
            verdict,
            _waiting_plans(home, document["plans_waiting"]),
            element("h2", "What runs"),
            facts(shown),
            join([element("h3", "Last refusals"), bullets(refusals)]) if refusals else Html(""),
            element("h2", "Stop or go on"),
            _pause_form(secret, paused=bool(document["paused_since"])),
        ]
    )


def _waiting_plans(home: Home, waiting: object) -> Html:
    if not isinstance(waiting, list) or not waiting:
        return Html("")
    known = [one for one in plan_store(home).all() if one.plan.run_id in waiting]
    return join([element("h2", "Plans that wait for your decision"), bullets(_plan_link(one) for one in known)])


def _plan_link(known: KnownPlan) -> Html:
    plan = known.plan
    link = element("a", plan.run_id, href=f"/plans/{known.digest.hex()}")
    return Html(f"{link}: {text(plan.task.name)}, asked by {text(plan.lead)}, epsilon {text(epsilon_words(plan))}")


def _pause_form(secret: str, *, paused: bool) -> Html:
    words = (
        "This site is paused: it answers no message. Runs go on without it."
        if paused
        else "Pausing holds from the next message on; a training under way sends nothing. Runs go on without this site."
    )
    button = element("button", "Answer again" if paused else "Pause this site", type="submit", class_="yes" if paused else "no")
    wanted = _input(type="hidden", name_="paused", value="no" if paused else "yes")
    return element("form", join([paragraph(words), _secret(secret), wanted, button]), method="post", action="/pause")


# -- plans ---------------------------------------------------------------------------------------------------------------


def plans(home: Home) -> Html:
    """All plans, those that wait first."""
    store, left, roster = plan_store(home), runs_left(home), home.load_roster()
    every = sorted(store.all(), key=lambda one: (_decided(store, one) is not None, _latest_first(one.plan.created)))
    if not every:
        return paragraph("No plan has reached this site.")
    rows: list[Sequence[Cell]] = [
        (
            element("a", one.plan.run_id, href=f"/plans/{one.digest.hex()}"),
            _decision_tag(_decided(store, one), over=bool(superseded(one, roster))),
            f"{one.plan.task.name} {one.plan.task.version}",
            one.plan.lead,
            epsilon_words(one.plan),
            one.plan.created[:10],
            left[one.digest].text if one.digest in left else "",
        )
        for one in every
    ]
    return table("Plans that reached this site", ["run", "decision", "task", "asked by", "#epsilon at most", "~made", "left"], rows)


def _latest_first(time: str) -> tuple[int, ...]:
    return tuple(-ord(letter) for letter in time)


def _decided(store: PlanStore, known: KnownPlan) -> Approval | None:
    return store.decision(known.digest)


def _decision_tag(decision: Approval | None, *, over: bool) -> Html:
    if over:
        return tag("over: of another roster", "mind")
    if decision is None:
        return tag("waits for you", "mind")
    if decision.decision == "refuse":
        return tag("refused", "bad")
    return tag(f"approved until {decision.until}" if decision.until else "approved", "good")


def plan(home: Home, known: KnownPlan, secret: str, done: str) -> Html:
    """One plan: verdict, cost, who, which data, what leaves, what is new; and the forms."""
    store = plan_store(home)
    decision, shown = store.decision(known.digest), {name: str(value) for name, value in plan_facts(home, known).items()}
    return join(
        [
            done_words(done),
            _decision_box(known, decision, objections(home, known), home.load_roster()),
            _plan_cards(known),
            element("h2", "Who asks, and for what program"),
            _who(home, known),
            element("h2", "What it costs in privacy"),
            _costs(home, known, shown),
            element("h2", "Which of your data it reads"),
            _columns(known),
            element("h2", "What would leave this hospital"),
            _would_leave(known, shown),
            _news(store, known),
            element("h2", "Your decision"),
            _decision_forms(known, decision, secret),
            _technical(known, shown),
        ]
    )


def _decision_box(known: KnownPlan, decision: Approval | None, held: list[str] | None, roster: Roster) -> Html:
    if held is None:
        policy = box("bad", "There is no policy file", paragraph(f"{NO_POLICY}. Site IT writes policy.yaml."))
    elif held[:1] == [superseded(known, roster)]:
        return box("bad", "This plan is over", bullets(held), paragraph("Nothing of it is answered, whatever is decided."))
    elif held:
        policy = box(
            "bad", "Your policy or budget objects", bullets(held), paragraph("While it does, nothing trains, whatever is decided.")
        )
    else:
        policy = box("good", "Policy and budget have no objection", paragraph("The decision is yours."))
    if decision is None:
        mine = box("mind", "This plan waits for your decision", paragraph("Until then this site answers nothing of this run."))
    elif decision.decision == "refuse":
        mine = box("bad", "Refused", paragraph(f"On {decision.decided}: {decision.reason}"))
    else:
        until = f", until {decision.until}" if decision.until else ", for the whole run"
        mine = box("good", f"Approved{until}", paragraph(f"On {decision.decided}: {decision.reason}"))
    left_out = known.plan.left_out
    alone = box("mind", "One hospital is tested alone", paragraph(f"Figures are of {left_out} alone.")) if left_out else Html("")
    return join([mine, policy, alone])


def _plan_cards(known: KnownPlan) -> Html:
    plan = known.plan
    cards = {
        "task": plan.task.name,
        "epsilon at most": epsilon_words(plan),
        "rounds": str(plan.schedule.rounds),
        "hospitals": str(len(plan.sites)),
        "columns read": str(len(plan.task.columns)),
    }
    inside = join(element("div", Html(f"{element('dt', name)}{element('dd', value)}")) for name, value in cards.items())
    return element("dl", inside, class_="cards")


def _who(home: Home, known: KnownPlan) -> Html:
    plan, roster = known.plan, home.load_roster()
    ours = code_version()
    same = plan.code_version == ours
    version = tag(f"{plan.code_version}, the version that runs here", "good") if same else tag(f"{plan.code_version}", "mind")
    pairs: list[tuple[str, Cell]] = [
        ("Asked by", plan.lead),
        ("Known here by", lead_key(plan, roster)),
        ("Consortium", f"{roster.consortium}, roster version {roster.version}"),
        ("Made on", plan.created),
        ("Program version", version if same else Html(f"{version} {text(f'here runs {ours}')}")),
        ("With", ", ".join(plan.sites)),
    ]
    return facts(pairs)


def _costs(home: Home, known: KnownPlan, shown: dict[str, str]) -> Html:
    names = [name for name in shown if name.startswith(("privacy", "epsilon", "patient count", "summed", "mind", "MIND"))]
    pairs: list[tuple[str, Cell]] = [(name[:1].upper() + name[1:], shown[name]) for name in names]
    explained = (
        "Epsilon bounds how much anything that leaves can tell about one patient: the smaller, the less. It adds up over all "
        "runs and is never given back."
    )
    return join([paragraph(explained, class_="note"), facts(pairs), _budget_left(home)])


def _budget_left(home: Home) -> Html:
    """So far, without this plan."""
    try:
        rows = budget_rows(home)
    except (SiteError, ConsortiumError, PrivacyError) as error:
        return paragraph(f"What was spent so far cannot be said: {error}")
    if not rows:
        return paragraph("Nothing was spent at this site so far.")
    return paragraph(
        "Spent so far: " + "; ".join(f"{row['budget of']}: {row['epsilon spent']} of {row['budget']}" for row in rows) + "."
    )


def _columns(known: KnownPlan) -> Html:
    columns = known.plan.task.columns
    kinds = ", ".join(known.plan.task.modalities)
    listed = element("ul", join(element("li", code(name)) for name in columns), class_="columns")
    return join([paragraph(f"{len(columns)} columns ({kinds}), and no other. They are read here and stay here."), listed])


def _would_leave(known: KnownPlan, shown: dict[str, str]) -> Html:
    pairs: list[tuple[str, Cell]] = [(FOR[purpose], leaves_words(known.plan, purpose)) for purpose in PURPOSES]
    words = "Masked vectors of numbers, which open only as a sum over several hospitals, and protocol messages. "
    words += "No row, name, date or image."
    return join([paragraph(words), facts([*pairs, ("Rounds", shown["rounds"])])])


def _news(store: PlanStore, known: KnownPlan) -> Html:
    before = last_approved(store, known)
    if before is None:
        return join(
            [element("h2", "What is new"), paragraph("This is the first plan of this task that this site is asked to approve.")]
        )
    found = changes(before.plan, known.plan)
    head = element("h2", f"What is new since {before.plan.run_id}, the last plan of this task that you approved")
    if not found:
        return join([head, paragraph("Nothing but the run itself.")])
    rows = [(one.what, one.before or "no", one.now or "no") for one in found]
    return join(
        [head, table("One difference" if len(found) == 1 else f"{len(found)} differences", ["what", "before", "now"], rows)]
    )


def _decision_forms(known: KnownPlan, decision: Approval | None, secret: str) -> Html:
    action = f"/plans/{known.digest.hex()}/decide"
    again = decision is not None and decision.decision != "refuse"
    return element("div", join([_approve_form(action, secret), _refuse_form(action, secret, again=again)]), class_="choices")


def _approve_form(action: str, secret: str) -> Html:
    until = element(
        "div",
        Html(
            f"{element('label', 'Until (date and hour, UTC)', for_='until')}"
            f"{_input(type='datetime-local', id='until', name_='until')}"
        ),
        class_="field",
    )
    choices = join(
        [_choice("approve", "for the whole run", checked=True), _choice("approve-until", "until a time, then it ends by itself")]
    )
    reason = _reason("approve-reason", "A note (not required)", required=False)
    button = element("button", "Approve", type="submit")
    inside = element("fieldset", join([element("legend", "Approve this plan"), choices, until, reason, _secret(secret), button]))
    return element("form", inside, method="post", action=action)


def _choice(value: str, words: str, *, checked: bool = False) -> Html:
    mark = {"checked": "checked"} if checked else {}
    return element("label", Html(f"{_input(type='radio', name_='decision', value=value, **mark)} {text(words)}"), class_="choice")


def _reason(name: str, words: str, *, required: bool) -> Html:
    more = {"required": "required"} if required else {}
    field = _input(type="text", id=name, name_="reason", maxlength="500", autocomplete="off", **more)
    return element("div", Html(f"{element('label', words, for_=name)}{field}"), class_="field")


def _refuse_form(action: str, secret: str, *, again: bool) -> Html:
    legend = "Take the approval back" if again else "Refuse this plan"
    reason = _reason("refuse-reason", "Why (one sentence; it stays at this site, in its signed ledger)", required=True)
    chosen = _input(type="hidden", name_="decision", value="refuse")
    button = element("button", "Take it back" if again else "Refuse", type="submit", class_="no")
    inside = element("fieldset", join([element("legend", legend), reason, chosen, _secret(secret), button]))
    return element("form", inside, method="post", action=action)


def _technical(known: KnownPlan, shown: dict[str, str]) -> Html:
    names = ("digest", "model", "task")
    pairs: list[tuple[str, Cell]] = [(name, shown[name]) for name in names]
    command = code(f"wardround-site plans show {known.plan.run_id}")
    inside = join([element("summary", "Technical details"), facts([*pairs, ("The same as text", command)])])
    return element("details", inside)


# -- budget --------------------------------------------------------------------------------------------------------------


def budget(home: Home) -> Html:
    """Spent and left, and how it grew."""
    rows, (data, _) = budget_rows(home), verified_ledger(home)
    if not rows:
        return paragraph("Nothing was spent at this site so far.")
    policy = PolicyFile(home.policy).load()
    names = list(rows[0])
    shown = table(
        "Privacy budgets over all runs",
        [names[0], *(f"#{name}" for name in names[1:])],
        [[str(row[name]) for name in names] for row in rows],
    )
    entries, _ = read_entries(data, home.load_identity().public)
    records = [(entry.time, entry.content) for entry in entries if isinstance(entry.content, SpendRecord)]
    charts = [
        _chart(delta, [record for _, record in records if record.details.delta == delta], policy.budget_epsilon if policy else None)
        for delta in sorted({record.details.delta for _, record in records})
    ]
    return join(
        [
            paragraph(
                "A spend is written down before anything is computed, and is never given back. "
                "The chain of entries was checked just now."
            ),
            shown,
            element("h2", "How it grew"),
            *charts,
            _by_run(records),
            *(box("mind", f"Left run {note.run_id}", paragraph(note.text)) for note in runs_left(home).values()),
        ]
    )


def _after(record: SpendRecord) -> float:
    return math.inf if record.epsilon_after == NOT_PRIVATE else record.epsilon_after


def _chart(delta: float, records: Sequence[SpendRecord], limit: float | None) -> Html:
    steps = [Step(record.details.run_id, _after(record)) for record in records]
    name = f"Epsilon spent at delta {delta:g}"
    drawn = Html(budget_chart(steps, budget=limit, name=name))
    return element("figure", Html(f"{element('figcaption', name)}{drawn}"), class_="chart")


def _by_run(records: Sequence[tuple[str, SpendRecord]]) -> Html:
    rows: list[Sequence[Cell]] = []
    for run in dict.fromkeys(record.details.run_id for _, record in records):
        mine = [(time, record) for time, record in records if record.details.run_id == run]
        last = _after(mine[-1][1])
        after = f"{last:.4f}" if math.isfinite(last) else "NOT PRIVATE"
        rows.append((run, mine[0][0][:16].replace("T", " "), mine[-1][0][:16].replace("T", " "), str(len(mine)), after))
    return table(
        "Run by run",
        ["run", "~first charge (UTC)", "~last charge (UTC)", "#releases charged", "#epsilon after it"],
        rows,
        kind="small",
    )


# -- what left -----------------------------------------------------------------------------------------------------------


def left(home: Home) -> Html:
    """One row for each run, checked against the ledger."""
    rows = summaries(home)
    if not rows:
        return paragraph("Nothing has left this hospital.")
    shown: list[Sequence[Cell]] = [
        (
            element("a", str(row["run"]), href=f"/left/{row['run']}"),
            str(row["answers"]),
            str(row["refusals"]),
            f"{row['bytes masked']:,}",
            f"{row['bytes other']:,}",
            _ledger_tag(str(row["ledger"])),
        )
        for row in rows
    ]
    words = (
        "Every answer is listed before it leaves; the signed ledger vouches for the list. Masked bytes open only as a sum over "
        "several hospitals; the others are public keys, sealed shares, ballots and refusals."
    )
    names = ["run", "#answers", "#refusals", "#bytes masked", "#bytes other", "checked against the ledger"]
    return join([paragraph(words), table("What left, run by run", names, shown)])


def _ledger_tag(sentence: str) -> Html:
    if sentence.startswith("DOES NOT FIT") or sentence.startswith("not checked"):
        return tag(sentence, "bad")
    return tag(sentence, "mind" if sentence.startswith("not linked") else "good")


def left_of(home: Home, run: str, wanted: str) -> Html:
    """One run, line by line, and the verdict of the ledger; `wanted`: a round, or nothing for all."""
    manifest, entries = EgressManifest(home.egress), egress_entries(home)
    checked = verify_manifest(run, manifest.data(run), entries)
    found, sentence = [one.text for one in (*checked.problems, *checked.remarks)], checked.sentence
    more_said = [bullets(found)] if found else []
    verdict = box("good" if checked.ok else "bad", f"{sentence[:1].upper()}{sentence[1:]}", *more_said)
    if wanted and not wanted.isdecimal():
        raise ConfigError("a round is a number")
    lines = [one for one in manifest.numbered(run) if not wanted or str(one[1].get("round")) == wanted]
    rows = [
        (
            str(number),
            str(line.get("time", "?"))[:19].replace("T", " "),
            str(line.get("round", "?")),
            str(line.get("kind", "?")),
            str(part.get("what", "?")),
            str(part.get("bytes", "?")),
            "yes" if part.get("masked") else "no",
            code(str(part.get("sha256"))[:16]),
        )
        for number, line in lines
        for part in parts_of(line)
    ]
    refusals = sum(is_refusal(line) for _, line in lines)
    total = f"{len(lines) - refusals} answers and {refusals} refusals; {bytes_of(lines, masked=True):,} bytes masked, "
    total += f"{bytes_of(lines, masked=False):,} bytes of other kinds."
    names = ["#line", "~time (UTC)", "#round", "kind", "what", "#bytes", "masked", "SHA-256 begins"]
    more = f"The last {ROWS_SHOWN} of {len(rows)} rows; `wardround-site egress {run}` shows all." if len(rows) > ROWS_SHOWN else ""
    shown = table(f"Lines of {run}{f', round {wanted}' if wanted else ''}", names, rows[-ROWS_SHOWN:], kind="rounds")
    return join(
        [verdict, paragraph(total), _round_form(run, wanted), paragraph(more) if more else Html(""), shown if rows else Html("")]
    )


def _round_form(run: str, wanted: str) -> Html:
    field = _input(type="text", id="round", name_="round", inputmode="numeric", value=wanted, size="6")
    label = element("label", "Only this round (empty: all; 0: keys)", for_="round")
    return element(
        "form", join([label, field, Html(" "), element("button", "Show", type="submit")]), method="get", action=f"/left/{run}"
    )
