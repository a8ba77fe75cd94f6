"""Commands of the data manager about patients: what is in the tables, who may be in, who got worse. Nothing is sent."""

import argparse
import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.cli_output import Output
from client.clock import utc
from client.config import load_config
from client.errors import ConfigError
from client.files import write_atomic
from client.free_paths import beginning_with, free, page
from client.home import Home
from client.unexpected import told_without_cells
from tasks.cohorts import ELIGIBILITY_FILE, ReadsTables, accepted_tables
from tasks.eligibility.criteria import Criteria, load_criteria, shipped
from tasks.errors import DataError
from tasks.labels.events import EVENT_COLUMNS
from tasks.ms.contract import CONTRACT
from tasks.ms.quarantine import write_private
from tasks.ms.reading import holds_contract_tables
from tasks.registry import find_task
from tasks.withdrawals import read_withdrawn

if TYPE_CHECKING:
    import pandas as pd

    from tasks.ms.labelling import Labelled
    from tasks.report import DataReport

RULES = ("default", "kappos2020", "spms", "neda3", "neda4")
PROFILE_EXAMPLES = """examples:
  wardround-site data profile                                     the tables of this site's data folder
  wardround-site data profile --criteria clinnova                 and who would enter Clinnova
  wardround-site data profile --folder /srv/export --html profile.html
  wardround-site data profile --task cdp_2y                       and how many patients and episodes that task would use
  wardround-site data profile --labels outcome.csv                which columns give this outcome away
Without --criteria: eligibility.yaml of the folder, if there is one. --labels names a CSV file with the columns patient_id and
label (0 or 1); without it, the label is a confirmed worsening of EDSS. Exact figures of patients: they stay in the hospital.
exit status: 0 done, 1 the tables cannot be used, 2 usage or configuration"""
LABEL_EXAMPLES = """examples:
  wardround-site data label                                       how many got worse, by the default rule
  wardround-site data label --rule spms --out events.csv
  wardround-site data label --folder /srv/export --out events.parquet
rules: default (24 weeks, rule A, PIRA by Müller 2023), kappos2020, spms (Lorscheider 2016; physicians'
dates beside it), neda3 and neda4 (from the first therapy on)
The file has one row for each event and names patients by pseudonym: only its owner reads it, and it stays in the hospital.
exit status: 0 done, 1 the tables cannot be used, 2 usage or configuration"""


def add_cohort_commands(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`data profile` and `data label`, below `wardround-site data`."""
    shape = argparse.RawDescriptionHelpFormatter
    about = "what the tables hold, who may be in a computation, and which columns tell too much"
    profile = kinds.add_parser("profile", help=about, description=about, epilog=PROFILE_EXAMPLES, formatter_class=shape)
    profile.add_argument("--criteria", metavar="NAME|FILE", help=f"criteria to count by: {', '.join(shipped())}, or a file")
    profile.add_argument("--labels", type=Path, metavar="FILE", help="outcome that no column may give away")
    profile.add_argument("--task", metavar="NAME", help="and whom a task of the consortium would use, and why not the others")
    profile.add_argument("--html", type=Path, metavar="FILE", help="write the profile as a page to read or print")
    profile.set_defaults(handler=told_without_cells("the profile", _profile))
    about = "label progression, relapse-independent or not, and count the events"
    label = kinds.add_parser("label", help=about, description=about, epilog=LABEL_EXAMPLES, formatter_class=shape)
    label.add_argument("--rule", choices=RULES, default="default", help="which definition (default %(default)s)")
    label.add_argument("--out", type=Path, metavar="FILE", help="write the events as .csv or .parquet")
    label.set_defaults(handler=told_without_cells("the labelling", _label))
    for command in (profile, label):
        command.add_argument("--folder", type=Path, help="folder with the tables (default: the site's data folder)")
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print it as JSON")


def _profile(home: Home, args: argparse.Namespace, out: Output) -> int:
    from tasks.eligibility.admit import admit  # here and below: pandas is for those who read tables
    from tasks.ms.profile import profile_of
    from tasks.ms.profile_page import profile_page, profile_text
    from tasks.ms.suspects import suspects

    html = page(args.html) if args.html else None
    folder = _folder(home, args)
    criteria = _criteria(folder, args.criteria)
    accepted, withdrawn = accepted_tables(folder), read_withdrawn(folder)
    consented = admit(accepted, None, withdrawn=withdrawn).tables
    chosen = admit(accepted, criteria, withdrawn=withdrawn)
    flow = chosen.flow
    labels, words = _labels(consented, args.labels)
    profile, found = profile_of(consented), suspects(consented, labels)
    used = _used_by(args.task, chosen.tables) if args.task else None
    if html:
        write_private(html, profile_page(profile, flow, found, words, f"{utc()[:16].replace('T', ' ')} UTC"))
    if out.as_json:
        shown: dict[str, object] = {"profile": profile.to_dict(), "flow": flow.to_dict(), "label": words}
        shown |= {"suspects": [vars(each) for each in found], "task": used.to_dict() if used else None}
        out.facts("profile", shown)
    else:
        print(profile_text(profile, flow, found, words), end="")
        if used:
            print(f"\n{used.to_text()}", end="")
    return 0


def _used_by(name: str, tables: "Mapping[str, pd.DataFrame]") -> "DataReport":
    """Whom the task would use of the patients who may be in. `ConfigError` for a task that reads no tables of the contract."""
    task = find_task(name)
    if not isinstance(task, ReadsTables):
        raise ConfigError(f"--task {name}: it reads a table of its own by mapping.yaml; see `wardround-site data validate`")
    return task.cohort_of(tables).report


def _label(home: Home, args: argparse.Namespace, out: Output) -> int:
    from tasks.eligibility.admit import admit
    from tasks.ms.labelling import label_tables

    if args.out and args.out.suffix not in (".csv", ".parquet"):
        raise ConfigError("--out must end in .csv or .parquet")
    path = free(args.out, "--out", _is_events) if args.out else None
    folder = _folder(home, args)
    found = label_tables(admit(accepted_tables(folder), None, withdrawn=read_withdrawn(folder)).tables, args.rule)
    if path:
        write_atomic(path, _encoded(found.events, path.suffix))
    if out.as_json:
        out.facts("label", found.to_dict())
    else:
        _show(found, path, out)
    return 0


def _is_events(path: Path) -> bool:
    """Whether a file holds events that this command wrote."""
    columns = ("patient_id", *EVENT_COLUMNS)
    if path.suffix == ".csv":
        return beginning_with(",".join(columns).encode() + b"\n")(path)
    import pyarrow.lib
    import pyarrow.parquet

    try:
        return tuple(pyarrow.parquet.read_schema(path).names) == columns
    except (OSError, pyarrow.lib.ArrowException):
        return False


def _show(found: "Labelled", path: Path | None, out: Output) -> None:
    rows = [{"event": name, "events": count, "patients": people} for name, (count, people) in found.counts.items()]
    out.say(f"rule {found.rule_id}")
    out.rows("events", rows, empty="none")
    out.say(f"{found.patients} patients; {found.few_visits} with fewer than 3 EDSS scores or less than one a year.")
    told = found.relapses
    out.say(
        f"Of {told['reported']} relapses reported, an examination was worse by the protocol's rule in {told['examination_worse']}, "
        f"not worse in {told['examination_not_worse']}, and does not tell in {told['not_examined']}."
    )
    for column, count in found.contradictions.items():
        out.say(f"visits.{column}: {count} values contradicted by another of the same day, taken as missing.")
    out.say("Exact figures of this hospital's patients: they stay here.")
    if path:
        out.say(f"written: {path}")


def _encoded(events: "pd.DataFrame", suffix: str) -> bytes:
    if suffix == ".csv":
        return str(events.to_csv(index=False, lineterminator="\n")).encode()
    buffer = io.BytesIO()
    events.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _folder(home: Home, args: argparse.Namespace) -> Path:
    folder: Path = args.folder.expanduser() if args.folder else load_config(home).data
    if not holds_contract_tables(folder, CONTRACT):
        raise DataError(f"{folder} holds no tables of the data contract, such as patients.csv: see `wardround-site data --help`")
    return folder


def _criteria(folder: Path, named: str | None) -> Criteria | None:
    if named:
        return load_criteria(named)
    path = folder / ELIGIBILITY_FILE
    return load_criteria(path) if path.exists() else None


def _labels(tables: "Mapping[str, pd.DataFrame]", path: Path | None) -> tuple[dict[str, int], str]:
    """The label of each patient, and what it is, in words; without enough patients of both classes the words say so."""
    from tasks.ms.labelling import worsened
    from tasks.ms.suspects import enough_labels

    labels = _read_labels(path) if path else worsened(tables)
    known = {str(name) for name in tables["patients"]["patient_id"]}
    labels = {name: value for name, value in labels.items() if name in known}
    words = (
        f"Label: that of {path.name}."
        if path
        else "Label: confirmed worsening of EDSS (default rule), of patients seen often enough."
    )
    if not enough_labels(labels):
        words += " Fewer than 10 patients have it, or do not have it: the columns were not tested."
    return labels, words


def _read_labels(path: Path) -> dict[str, int]:
    try:
        rows: list[dict[str, Any]] = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file in UTF-8: check the file") from error
    found: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        if row.get("label") not in ("0", "1") or not row.get("patient_id"):
            raise DataError(f"{path.name} row {number}: write a patient_id, and a label that is 0 or 1")
        if row["patient_id"] in found:
            raise DataError(f"{path.name} row {number}: this patient has a label already; write one row for each")
        found[row["patient_id"]] = int(row["label"])
    return found
