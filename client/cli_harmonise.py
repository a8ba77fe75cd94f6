"""`wardround-site data harmonise`: this site's MRI measures as the average scanner would have measured them. Nothing is sent."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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
from tasks.splits import held_out_mask

if TYPE_CHECKING:
    from tasks.mri_harmonisation.apply import Harmonised

EXAMPLES = """examples:
  wardround-site data harmonise result.json --out mri_harmonised.csv
  wardround-site data harmonise result.json --folder /srv/export --out /srv/analysis/mri_harmonised.csv
  wardround-site data harmonise result.json --out mri_harmonised.csv --tables /srv/ms-data-harmonised
RESULT is result.json of a run of the task mri_harmonisation; the lead hands it out, and it holds no patient. A scanner that was
in no run is harmonised too, if it has 10 complete scans. The file has one row for each scan of the patients who may be in a
computation: patient_id, day, scan_id, batch, state, and the measures of the run in their units. The tables stay as they are;
with --tables a new folder holds them with harmonised measures, for plans on volumes (mri_quant says so, by the run's name) and
for clinical tasks: name it in site.yaml once you have looked at it. Scans that were not harmonised stay in it as measured. Who
withdraws consent from now until then stands in withdrawn.txt of the old folder alone: take that file along.
It names patients by pseudonym: only its owner reads it, and it stays in the hospital.
exit status: 0 done, 1 the tables or the result cannot be used, 2 usage or configuration"""
Sides = Callable[[tuple[str, ...]], NDArray[np.bool_]]
HEAD = b"patient_id,day,scan_id,batch,state,"


def add_command(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`data harmonise`, below `wardround-site data`."""
    shape = argparse.RawDescriptionHelpFormatter
    about = "take the scanner out of MRI measures, by the result of a run"
    part = kinds.add_parser("harmonise", help=about, description=about, epilog=EXAMPLES, formatter_class=shape)
    part.add_argument("result", type=Path, metavar="RESULT", help="result.json of a run of mri_harmonisation")
    part.add_argument("--folder", type=Path, help="folder with the tables (default: the site's data folder)")
    part.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the harmonised measures go (.csv)")
    part.add_argument("--tables", type=Path, metavar="DIR", help="a new folder for the tables with harmonised measures")
    part.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print it as JSON")
    part.set_defaults(handler=told_without_cells("the harmonisation", _harmonise))


def _harmonise(home: Home, args: argparse.Namespace, out: Output) -> int:
    from tasks.imaging.measures_folder import check_out  # here: pandas and nibabel are for those who read tables
    from tasks.mri_harmonisation.apply import STATES, harmonise_tables
    from tasks.mri_harmonisation.reference import load_reference, name_of
    from tasks.mri_harmonisation.tables import write_tables

    path = table_of_patients(args.out.expanduser(), HEAD, "mri_harmonised.csv")
    reference = load_reference(args.result.expanduser())
    target = Path(os.path.abspath(args.tables.expanduser())) if args.tables else None  # not resolved: a link would be seen through
    folder = args.folder.expanduser() if args.folder else load_config(home).data
    if target is not None:
        check_out(target, folder)
    if not holds_contract_tables(folder, CONTRACT):
        raise DataError(f"{folder} holds no tables of the data contract, such as patients.csv: see `wardround-site data --help`")
    sides = _sides(home)
    tables = admitted(folder).tables
    if "mri" not in tables or tables["mri"].empty:
        raise DataError(f"{folder} holds no scan of a patient who may be in: see `wardround-site data profile`")
    found, name = harmonise_tables(reference, tables, sides), name_of(reference)
    write_atomic(path, _encoded(found))  # first: the same command may write it again, and not the folder
    written = write_tables(folder, target, found, name) if target else None
    shown: dict[str, object] = {"name": name}
    if written:
        shown |= {"tables": str(target), "scans_in_tables": written.harmonised, "out_of_range": written.out_of_range}
        shown["rows_as_they_were"] = written.rows - written.harmonised
    _show(found, {state: words for state, words in STATES.items() if found.counts[state]}, path, sides is not None, shown, out)
    return 0


def _sides(home: Home) -> Sides | None:
    """Who is on the training side, by the consortium's roster; None for a site that has none: then every scan counts."""
    if not home.roster.exists():
        return None
    roster = home.load_roster()
    return lambda patients: ~held_out_mask(patients, roster.split_salt, roster.held_out_fraction)


def _encoded(found: "Harmonised") -> bytes:
    return str(found.scans.to_csv(index=False, lineterminator="\n", float_format="%.10g")).encode()


def _show(found: "Harmonised", words: dict[str, str], path: Path, split: bool, more: dict[str, object], out: Output) -> None:
    if out.as_json:
        shown = {"scans": found.counts, "batches": list(found.batches), "training_side_alone": split, "file": str(path)}
        out.facts("harmonised", shown | more)
        return
    out.rows("batches", list(found.batches), empty="none: no scan has a scanner and a protocol")
    out.facts("scans", {text: found.counts[state] for state, text in words.items()})
    side = "scans of training patients, as in the run" if split else "all scans, for this site follows no roster"
    out.say(f"Effects of scanners are estimated from {side}.")
    out.say("Exact figures of this hospital's patients: they stay here.")
    if "tables" in more:
        out.say(f"{more['scans_in_tables']} scans are harmonised in {more['tables']}, by {more['name']}; the other")
        out.say(f"{more['rows_as_they_were']} stay as they were, {more['out_of_range']} of them since they would leave")
        out.say("the range of the data contract.")
        out.say("Name the folder in site.yaml if plans should read it, and take withdrawn.txt along if it changed since.")
    out.say(f"written: {path}")
