"""`wardround-site data atrophy`: how fast this site's patients lose brain volume, beside the consortium's. Nothing is sent."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from client.cli_output import Output
from client.config import load_config
from client.files import write_atomic
from client.free_paths import table_of_patients
from client.home import Home
from client.unexpected import told_without_cells
from tasks.cohorts import admitted
from tasks.errors import DataError
from tasks.ms.contract import CONTRACT
from tasks.ms.reading import holds_contract_tables

if TYPE_CHECKING:
    from tasks.mri_quant.apply import Rated
    from tasks.mri_quant.reference import RateReference

EXAMPLES = """examples:
  wardround-site data atrophy result.json --out rates.csv
  wardround-site data atrophy result.json --folder /srv/ms-data-harmonised --out rates.csv --healthy
RESULT is result.json of a run of the task mri_quant; the lead hands it out, and it holds no patient. The file has one row for
each patient with scans and measure: rate (% a year) with standard error and 95 % interval, the rate expected at that age and sex,
z (below 0: faster than expected), the best guess once the rate's own error is taken into account, and for the brain whether it
is lost faster than 0.4 % a year: yes and no if the interval says so, rather yes and rather no otherwise.
z compares with the consortium's patients, who have MS: it is no norm of healthy people. --healthy adds z_healthy against a
published one (brain alone; 35 people, another method of measuring). Neither that norm nor the 0.4 % know the patient's age: old
people lose more without MS. Two scans are a hint, not a finding.
It names patients by pseudonym: only its owner reads it, and it stays in the hospital. The tables stay as they are.
exit status: 0 done, 1 the tables or the result cannot be used, 2 usage or configuration"""
HEAD = b"patient_id,measure,state,scans,"


def add_command(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`data atrophy`, below `wardround-site data`."""
    shape = argparse.RawDescriptionHelpFormatter
    about = "yearly brain volume loss of each patient, by the result of a run"
    part = kinds.add_parser("atrophy", help=about, description=about, epilog=EXAMPLES, formatter_class=shape)
    part.add_argument("result", type=Path, metavar="RESULT", help="result.json of a run of mri_quant")
    part.add_argument("--folder", type=Path, help="folder with the tables (default: the site's data folder)")
    part.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the rates go (.csv)")
    part.add_argument("--healthy", action="store_true", help="a second z against a published norm of healthy people")
    part.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print it as JSON")
    part.set_defaults(handler=told_without_cells("the rates", _atrophy))


def _atrophy(home: Home, args: argparse.Namespace, out: Output) -> int:
    from tasks.mri_quant.apply import rate_patients  # here: pandas is for those who read tables
    from tasks.mri_quant.reference import load_reference

    path = table_of_patients(args.out.expanduser(), HEAD, "rates.csv")
    reference = load_reference(args.result.expanduser())
    folder = args.folder.expanduser() if args.folder else load_config(home).data
    if not holds_contract_tables(folder, CONTRACT):
        raise DataError(f"{folder} holds no tables of the data contract, such as patients.csv: see `wardround-site data --help`")
    tables = admitted(folder).tables
    if "mri" not in tables or tables["mri"].empty:
        raise DataError(f"{folder} holds no scan of a patient who may be in: see `wardround-site data profile`")
    found = rate_patients(reference, tables, healthy=args.healthy)
    if found.rates.empty:
        raise DataError(f"no scan in {folder} of a patient who may be in has a measured volume: see `wardround-site data profile`")
    _refuse_other_volumes(reference, found, folder)
    write_atomic(path, str(found.rates.to_csv(index=False, lineterminator="\n", float_format="%.6g")).encode())
    _show(reference, found, path, healthy=args.healthy, out=out)
    return 0


def _refuse_other_volumes(reference: "RateReference", found: "Rated", folder: Path) -> None:
    states = set(found.rates["state"])
    if "rated" in states or "other_volumes" not in states:
        return
    if name := reference.frame.reference:
        raise DataError(
            f"no volume in {folder} is harmonised by {name}, as those of the run are: see `wardround-site data harmonise --tables`"
        )
    raise DataError(f"the volumes in {folder} are harmonised, those of the run are as measured: name the folder that has these")


def _show(reference: "RateReference", found: "Rated", path: Path, *, healthy: bool, out: Output) -> None:
    from tasks.mri_quant.apply import STATES

    names = [measure.name for measure in reference.frame.measures]
    if out.as_json:
        shown = {name: {"patients": found.counts(name), "faster": found.faster(name)} for name in names}
        out.facts("rates", {"measures": shown, "volumes": reference.frame.reference, "healthy": healthy, "file": str(path)})
        return
    for name in names:
        counts, flags = found.counts(name), found.faster(name)
        out.facts(f"{name}: patients", {words: counts[state] for state, words in STATES.items() if counts[state]})
        if flags:
            out.facts("faster than 0.4 % a year", dict(flags))
    out.say("Expected rates and z are those of the consortium's patients, who have MS: no norm of healthy people.")
    out.say("Exact figures of this hospital's patients: they stay here.")
    out.say(f"written: {path}")
