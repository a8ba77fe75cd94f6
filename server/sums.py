"""What a run of sums found, for people and programs: from the newest checkpoint and the journal, as often as one likes."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import cast

from consortium.canonical import Json, encode_json
from consortium.plan import Plan
from server.checkpoint import latest_checkpoint
from server.errors import ServerError
from server.folder import RunFolder
from server.state import RunState, read_state
from server.strategy import SUMS, Vector
from tasks.errors import TaskError
from tasks.registry import find_task
from tasks.sums import Choice, Opened, SumsTask

FORMAT = "wardround/result/1"


def sums_only(plan: Plan) -> bool:
    """Whether the plan's rounds are sums that train no model."""
    return plan.strategy.name == SUMS


def result_of(folder: RunFolder, plan: Plan) -> dict[str, Json] | None:
    """What the run found; None before its last stage is done, and for a run that trains a model. Raises `ServerError`."""
    found = latest_checkpoint(folder.checkpoints, plan.digest, model_size=plan.model_size).checkpoint
    if not sums_only(plan) or found is None or len(found.state) < plan.schedule.rounds:
        return None
    task = find_task(plan.task.name)
    if not isinstance(task, SumsTask) or task.version != plan.task.version:
        raise ServerError(f"run {plan.run_id} is of {plan.task.name} {plan.task.version}: read it with code {plan.code_version}")
    choice = Choice(plan.model.name, dict(plan.model.options), plan.task.columns)
    try:
        result = task.result(choice, _opened(plan, read_state(folder.path), found.state))
    except TaskError as error:
        raise ServerError(f"the sums of run {plan.run_id} give no result: {error}") from error
    head: dict[str, Json] = {"format": FORMAT, "run_id": plan.run_id, "plan_digest": plan.digest.hex(), "task": plan.task.name}
    return head | cast("dict[str, Json]", dict(result))


def _opened(plan: Plan, state: RunState, means: Sequence[Vector]) -> list[Opened]:
    """Each stage's sum: its mean times the declared patients of the sites that were in it."""
    stages = [done for done in state.done if done.purpose == "train"][: len(means)]
    opened = []
    for done, mean in zip(stages, means, strict=True):
        declared = sum(plan.participant(site).declared_patients for site in done.survivors)
        noise = plan.privacy.train_noise * plan.privacy.clip * math.sqrt(len(done.survivors)) if plan.private else 0.0
        opened.append(Opened(mean * declared, noise))
    return opened


def result_bytes(result: Mapping[str, Json]) -> bytes:
    """The file that an export holds."""
    return encode_json(dict(result))


def result_lines(result: Mapping[str, Json]) -> list[str]:
    """For a terminal: title, notes, every table with its columns aligned."""
    lines = [str(result["title"]), *(f"  {note}" for note in cast("list[str]", result["notes"]))]
    for name, rows in _tables(result).items():
        if not rows:
            continue
        names = list(rows[0])
        cells = [names, *([_words(row.get(column)) for column in names] for row in rows)]
        widths = [max(len(line[at]) for line in cells) for at in range(len(names))]
        lines += ["", name]
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return lines


def result_html(result: Mapping[str, Json]) -> str:
    """The same for the run's page."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in cast("list[str]", result["notes"]))
    parts = [f"<h2>{escape(str(result['title']))}</h2><ul>{notes}</ul>"]
    for name, rows in _tables(result).items():
        if rows:
            head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in rows[0])
            body = "".join("<tr>" + "".join(_cell(row.get(column)) for column in rows[0]) + "</tr>" for row in rows)
            parts.append(f"<h3>{escape(name)}</h3><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return "".join(parts)


def _tables(result: Mapping[str, Json]) -> dict[str, list[dict[str, Json]]]:
    return cast("dict[str, list[dict[str, Json]]]", result["tables"])


def _cell(value: Json) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = ' class="n"' if number else ""
    return f"<td{kind}>{escape(_words(value))}</td>"


def _words(value: Json) -> str:
    """A whole number without a decimal point; nothing for nothing."""
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) and value == round(value) and abs(value) < 1e15 else str(value)
