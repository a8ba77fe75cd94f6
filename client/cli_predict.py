"""`wardround-site predict`: an exported model's word about this hospital's own patients. Nothing is sent, nothing is learnt."""

import argparse
import csv
import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from client.cli_output import Output
from client.config import load_config
from client.errors import ConfigError, SiteError
from client.files import write_atomic
from client.free_paths import beginning_with, free
from client.home import Home
from client.unexpected import told_without_cells
from tasks.errors import DataError

if TYPE_CHECKING:
    from tasks.exported import Exported
    from tasks.predicting.bedside import Prediction, Quantity, Reason
    from tasks.predicting.course import Course

FORMAT = "wardround/predictions/1"
WIDTH = 100  # columns of the text
CAUTION = (
    "Research software, not a medical device: no decision about a patient may rest on it. An interval is of what is said beside "
    "it and of nothing else. Reasons say what the model responds to, not what causes the outcome."
)
EXAMPLES = """examples:
  wardround-site predict model/ --patient P-0123                   one patient, with all reasons
  wardround-site predict model/ --out risks.json                   everybody whom the model serves
  wardround-site predict personal/RUN/ --patient P-0123            the model that `personalise` made here
  wardround-site predict model/ --states states/ --patient P-0123  and the state of the disease, and its likely course
MODEL is a folder that `wardround-lead model export` wrote. Each prediction is of the patient's last day with what it needs. The
model is silent about patients unlike those it was trained on, and where too little is known. The file names patients by pseudonym:
only its owner reads it, and it stays in the hospital.
exit status: 0 done, 1 the model or the tables cannot be used, 2 usage or configuration"""
BLIND = "The run's noise hides the range of its training patients: NOBODY IS REFUSED for being unlike them."
WHY = "why (+ raises, - lowers)"
NOTHING = 0.005  # a contribution below is shown as 0.00
BEFORE = ("patient", "day", "quantity", "value", "low", "high", "unit", "abstained")
HEAD = (*BEFORE, "level", "interval_of")


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`predict`."""
    about = "an exported model's word on this hospital's patients, with reasons"
    shape = argparse.RawDescriptionHelpFormatter
    said = f"{about}.\n{_wrapped(CAUTION)}"
    command = verbs.add_parser("predict", help=about, description=said, epilog=EXAMPLES, formatter_class=shape)
    command.add_argument("model", type=Path, metavar="MODEL", help="folder of the exported model")
    command.add_argument("--patient", action="append", default=[], metavar="ID", help="pseudonym; may be given several times")
    command.add_argument("--states", type=Path, metavar="MODEL", help="exported result of disease_states: state and likely course")
    command.add_argument("--folder", type=Path, help="folder with the tables (default: the site's data folder)")
    command.add_argument("--out", type=Path, metavar="FILE", help="write all predictions as .json, or the numbers as .csv")
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print them as JSON")
    command.set_defaults(handler=told_without_cells("the prediction", _predict))


def _predict(home: Home, args: argparse.Namespace, out: Output) -> int:
    from tasks.cohorts import admitted  # here: pandas and torch are for those who predict
    from tasks.exported import read_exported, task_of
    from tasks.predicting.bedside import patients_of, predict, range_of
    from tasks.predicting.quality import quality_of

    if args.out and args.out.suffix not in (".json", ".csv"):
        raise ConfigError("--out must end in .json or .csv")
    path = free(args.out, "--out", _is_ours) if args.out else None
    exported = read_exported(args.model.expanduser())
    task = task_of(exported)
    tables = admitted(_tables_at(args.folder.expanduser() if args.folder else load_config(home).data)).tables
    patients = patients_of(task, tables)
    if args.patient:
        _check_known(patients.names, args.patient)
        patients = patients.only(args.patient)
    found = predict(exported, task, patients)
    courses: dict[str, Course] = {}
    if args.states:
        from tasks.predicting.course import courses_of

        courses = courses_of(args.states.expanduser(), tables, [each.patient for each in found])
    quality = quality_of(exported, task)
    told = {**_told(exported, found, courses), "quality": quality, "range_unknown": range_of(exported, task).blind}
    if path:
        _write(path, _as_csv(found) if path.suffix == ".csv" else json.dumps(told, indent=1).encode() + b"\n")
    if out.as_json:
        out.facts("predictions", told)
        return 0
    out.say(_wrapped(f"{task.name}, {_kind(exported)} run {exported.run_id}; {exported.facts.get('privacy_in_words')}"))
    out.say(_wrapped(f"How good it is: {quality}"))
    if range_of(exported, task).blind:
        out.say(_wrapped(BLIND))
    _show(found, courses, out)
    if path:
        out.say(f"written: {path}")
    return 0


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise SiteError(f"--out: {path} was not written: {error.strerror}") from error


def _tables_at(folder: Path) -> Path:
    """Raises `ConfigError` where no folder is."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: name the one with this hospital's tables by --folder, or in site.yaml")
    return folder


def _check_known(known: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises `DataError` if there is a patient about whom nothing can be asked."""
    if missing := sorted(set(wanted) - set(known)):
        raise DataError(
            f"{len(missing)} of {len(set(wanted))} patients cannot be asked about: not in the tables, consent taken back or not "
            "given, not of the model's population, or no visit with what it needs; see `wardround-site data profile`"
        )


def _is_ours(path: Path) -> bool:
    if path.suffix == ".csv":
        return beginning_with(",".join(BEFORE).encode())(path)  # an earlier version's, too
    return beginning_with(b'{\n "format": "' + FORMAT.encode())(path)


def _told(exported: "Exported", found: Sequence["Prediction"], courses: "dict[str, Course]") -> dict[str, object]:
    """All of it for programs."""
    return {
        "format": FORMAT,
        "caution": CAUTION,
        "run_id": exported.run_id,
        "model_digest": exported.digest.hex(),
        "personal": exported.personal,
        "task": exported.task.name,
        "privacy": exported.facts.get("privacy_in_words"),
        "predictions": [asdict(each) | {"course": _course(courses.get(each.patient))} for each in found],
    }


def _course(course: "Course | None") -> object:
    return None if course is None else asdict(course)


def _as_csv(found: Sequence["Prediction"]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    for each in found:
        if each.abstained:
            writer.writerow((each.patient, each.day, "", "", "", "", "", each.abstained, "", ""))
        for one in each.quantities:
            level, of = (one.interval.level, one.interval.of) if one.interval else ("", "")
            writer.writerow((each.patient, each.day, one.name, one.value, one.low, one.high, one.unit, "", level, of))
    return text.getvalue().encode()


def _kind(exported: "Exported") -> str:
    return "personal model made here from" if exported.personal else "model of"


def _show(found: Sequence["Prediction"], courses: "dict[str, Course]", out: Output) -> None:
    silent = sum(bool(each.abstained) for each in found)
    told = _in_order(next((each.quantities for each in found if each.quantities), ()))
    intervals = list(dict.fromkeys(one.interval for one in told if one.interval))
    heading = intervals[0].name if len(intervals) == 1 else "interval"
    rows = [row for each in found for row in _rows(each, heading)]
    out.rows("predictions", rows, empty="no patient whom the model serves")
    for one in told:
        out.say(_wrapped(f"{one.name}: {one.meaning}"))
    for interval in intervals:
        out.say(_wrapped(f"{interval.name}: holds {interval.of}"))
    if len(found) == 1 and not silent:
        _explain(found[0], out)
    if len(found) == 1 and courses:
        _show_course(courses.get(found[0].patient), out)
    out.say(f"{len(found) - silent} predicted, silent about {silent}. Days are those of the tables.")
    out.say(_wrapped(CAUTION))


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH)


def _show_course(course: "Course | None", out: Output) -> None:
    if course is None:
        out.say("No state is told: too few visits.")
        return
    out.rows("state and likely course, with therapy as it is now", course.rows())
    if course.worse_in_a_year is not None:
        out.say(
            f"chance of a worse EDSS in a year, confirmed or not, by this model of states: {100 * course.worse_in_a_year:.0f} %"
        )


def _in_order(quantities: "Sequence[Quantity]") -> "list[Quantity]":
    """Risks of nearer horizons first."""
    return sorted(quantities, key=lambda one: one.years or 0.0)


def _rows(each: "Prediction", heading: str) -> list[dict[str, object]]:
    head: dict[str, object] = {"patient": each.patient, "day": "" if each.day is None else each.day}
    if each.abstained:
        return [head | {"what": "none", "value": "", heading: "", WHY: each.abstained}]
    first = ", ".join(f"{_sign(reason)}{reason.column} {_value(reason)}" for reason in _telling(each)[:2])
    return [
        head
        | {
            "what": one.name,
            "value": _number(one.value, one.unit),
            heading: "not measured" if one.low is None or one.high is None else _span(one.low, one.high, one.unit),
            WHY: first if one is each.quantities[0] else "",
        }
        for one in _in_order(each.quantities)
    ]


def _telling(each: "Prediction") -> "list[Reason]":
    return [reason for reason in each.reasons if abs(reason.contribution) >= NOTHING]


def _sign(reason: "Reason") -> str:
    return "+" if reason.contribution > 0 else "-"


def _value(reason: "Reason") -> str:
    return reason.value if reason.unit == "count" else f"{reason.value} {reason.unit}".rstrip()


def _span(low: float, high: float, unit: str) -> str:
    return f"{low:+.1f} to {high:+.1f} {unit}" if unit else f"{_number(low, unit)} to {_number(high, unit)}"


def _number(value: float, unit: str) -> str:
    """Whole percents, but none that says never or always."""
    if unit:
        return f"{value:+.1f} {unit}"
    return "below 1 %" if value < 0.005 else "above 99 %" if value >= 0.995 else f"{100 * value:.0f} %"


def _explain(each: "Prediction", out: Output) -> None:
    first = each.quantities[0]
    scale = first.unit or "log-odds"
    out.rows(
        f"what makes {first.name} differ from the average training patient's, the largest first",
        [
            {
                "input": f"{reason.column}: {reason.meaning}" if reason.meaning else reason.column,
                "this patient": _value(reason),
                f"adds ({scale})": f"{reason.contribution:+.2f}",
            }
            for reason in _telling(each)
        ],
    )
