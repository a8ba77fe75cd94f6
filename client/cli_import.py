"""`wardround-site data import`: the hospital's own export becomes tables of the data contract. Nothing is sent."""

import argparse
import os
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from client.cli_output import Output
from client.clock import utc
from client.config import load_config
from client.errors import ConfigError, SiteError
from client.free_paths import page
from client.home import Home
from client.pseudonyms import KEY_FILE, key_for_import
from client.unexpected import told_without_cells
from tasks.ms.quarantine import write_private

if TYPE_CHECKING:
    from tasks.importing.base import Imported
    from tasks.importing.native import Conversion
    from tasks.importing.native_mapping import NativeMapping
    from tasks.importing.preview import Shown
    from tasks.ms.findings import ContractReport

QUARANTINE = "quarantine"
USUAL_ROWS = 3
RECORDED = ("rwd", "trial", "prospective")
EXAMPLES = """examples:
  wardround-site data import mapping.yaml --from /srv/export --dry-run            see before and after; writes nothing
  wardround-site data import mapping.yaml --from /srv/export --out /srv/ms-data
  wardround-site data import mapping.yaml --from export.xlsx --out /srv/ms-data --replace
  wardround-site data import --fhir /srv/bundle.json --out /srv/ms-data           FHIR R4; --omop FOLDER for OMOP CDM
The mapping names every column of the export; calendar dates become days and stay here. Names of drugs that nobody knows go
to a review list: fill in code, who and date, keep it beside the mapping as reviewed.csv and import again. With --replace the
former folder is kept as FOLDER.former. Pseudonyms come from pseudonym.key in the site's folder: whoever loses it gives every
patient a new pseudonym, and withdrawals no longer name anybody. Keep a copy where the site's other keys are.
exit status: 0 done, 1 something was left out (see --allow-problems) or refused, 2 usage or configuration"""


def add_command(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`data import`, below `wardround-site data`."""
    about = "turn the hospital's own export (CSV, Excel, Parquet, FHIR, OMOP) into tables of the data contract"
    part = kinds.add_parser(
        "import", help=about, description=about, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = part.add_mutually_exclusive_group(required=True)
    what.add_argument("mapping", nargs="?", metavar="MAPPING", help="the mapping file, or the name of a shipped one")
    what.add_argument("--fhir", type=Path, metavar="PATH", help="a FHIR R4 bundle, a folder of bundles or of NDJSON files")
    what.add_argument("--omop", type=Path, metavar="FOLDER", help="a folder with tables of the OMOP CDM")
    part.add_argument(
        "--from", dest="place", type=Path, metavar="PATH", help="folder with the files of the mapping, or the one file"
    )
    part.add_argument("--out", type=Path, metavar="FOLDER", help="where the tables go: a new folder, or see --replace")
    part.add_argument("--replace", action="store_true", help="take the place of an earlier export; it is kept as FOLDER.former")
    part.add_argument("--dry-run", action="store_true", help="show before and after, write no table")
    part.add_argument("--rows", type=int, default=USUAL_ROWS, metavar="N", help="rows of each table to show (default %(default)s)")
    part.add_argument("--html", type=Path, metavar="FILE", help="with --dry-run: write what is shown as a page")
    part.add_argument("--review", type=Path, metavar="FILE", help="where the review list goes (default: FOLDER.review.csv)")
    part.add_argument("--site", metavar="NAME", help="name of the site in the manifest (default: this site's)")
    part.add_argument("--keep-ids", action="store_true", help="with --fhir or --omop: the ids are pseudonyms already")
    part.add_argument("--crosswalk", type=Path, metavar="FILE", help="with --fhir or --omop: the hospital's own codes")
    part.add_argument("--recorded", choices=RECORDED, default="rwd", help="with --fhir or --omop (default %(default)s)")
    part.add_argument("--allow-problems", action="store_true", help="status 0 even if something was left out")
    part.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print it as JSON")
    part.set_defaults(handler=told_without_cells("the import", _import))


def _import(home: Home, args: argparse.Namespace, out: Output) -> int:
    _check_usage(args)
    return _dry_run(home, args, out) if args.dry_run else _write(home, args, out)


def _write(home: Home, args: argparse.Namespace, out: Output) -> int:
    from tasks.importing.writing import check_target, write_contract  # here and below: pandas is for those who read tables
    from tasks.ms.validate import validate_folder

    folder = Path(os.path.abspath(args.out.expanduser()))  # not resolved: a link would be seen through
    check_target(folder, replace=args.replace)
    review = args.review.expanduser() if args.review else folder.with_name(f"{folder.name}.review.csv")
    _check_review(review)
    imported, counts, name = _read(home, args, over_earlier=folder.exists() and any(folder.iterdir()))
    _write_review(review, imported)
    write_contract(imported, folder, site=args.site or _site(home) or name, replace=args.replace)
    report = validate_folder(folder, quarantine=folder / QUARANTINE).report
    _tell(imported, counts, report, folder, review, out)
    clean = not imported.problems and not imported.review and report.passed(allow_quarantine=False)
    return 0 if clean or (args.allow_problems and report.passed(allow_quarantine=True)) else 1


def _check_usage(args: argparse.Namespace) -> None:
    if args.mapping and not args.place:
        raise ConfigError("--from is missing: the folder with the files of the mapping, or the one file")
    if not args.mapping and args.place:
        raise ConfigError("--from belongs to a mapping: --fhir and --omop name their source themselves")
    if args.mapping and (args.keep_ids or args.crosswalk or args.recorded != "rwd"):
        raise ConfigError("--keep-ids, --crosswalk and --recorded are for --fhir and --omop: a mapping says all this itself")
    if not args.dry_run and not args.out:
        raise ConfigError("--out is missing: the folder for the tables; or --dry-run to look first")
    if args.html and not args.dry_run:
        raise ConfigError("--html is for --dry-run; for the tables themselves see `wardround-site data validate --html`")
    if args.html:
        page(args.html)
    if args.rows < 0:
        raise ConfigError("--rows must be 0 or more")


def _read(home: Home, args: argparse.Namespace, *, over_earlier: bool) -> "tuple[Imported, Mapping[str, Any], str]":
    """What the source gives, the count of each table if a mapping made it, and the source's name."""
    if args.mapping:
        conversion, mapping = _convert(home, args, over_earlier=over_earlier, write=True)
        return conversion.imported, conversion.counts, mapping.source
    key = key_for_import(home.root / KEY_FILE, over_earlier=over_earlier, write=True)
    return _read_standard(args, key), {}, "fhir" if args.fhir else "omop"


def _read_standard(args: argparse.Namespace, key: bytes) -> "Imported":
    from tasks.importing.fhir import read_fhir
    from tasks.importing.omop import read_omop

    read, source = (read_fhir, args.fhir) if args.fhir else (read_omop, args.omop)
    crosswalk = args.crosswalk.expanduser() if args.crosswalk else None
    return read(source.expanduser(), key, keep_ids=args.keep_ids, crosswalk=crosswalk, recorded=args.recorded)


def _convert(home: Home, args: argparse.Namespace, *, over_earlier: bool, write: bool) -> "tuple[Conversion, NativeMapping]":
    from tasks.importing.drugs import REVIEWED_FILE, read_reviewed
    from tasks.importing.native import convert
    from tasks.importing.native_mapping import find_mapping
    from tasks.importing.native_source import read_sources

    mapping = find_mapping(args.mapping)
    reviewed = read_reviewed(mapping.folder / REVIEWED_FILE) if mapping.folder else {}
    sources = read_sources(mapping, args.place.expanduser())
    key = key_for_import(home.root / KEY_FILE, over_earlier=over_earlier, write=write) if mapping.needs_key else b""
    return convert(mapping, sources, key, today=date.today(), reviewed=reviewed), mapping


def _site(home: Home) -> str:
    return load_config(home).site if home.config.exists() else ""


def _check_review(path: Path) -> None:
    """What is no review list, or holds decisions, is not written over."""
    from tasks.importing.drugs import is_review_list, read_reviewed

    if not is_review_list(path):
        raise ConfigError(f"{path} is no review list: name another file with --review")
    if read_reviewed(path):
        raise SiteError(f"{path} holds decisions: keep it beside the mapping as reviewed.csv, or add its rows there and remove it")


def _write_review(path: Path, imported: "Imported") -> None:
    from tasks.importing.drugs import write_review

    if imported.review:
        write_review(path, imported.review)
    else:
        path.unlink(missing_ok=True)  # what was open is decided


def _dry_run(home: Home, args: argparse.Namespace, out: Output) -> int:
    from tasks.importing.preview import LOCAL, after_only, preview, preview_page

    if args.mapping:
        conversion, mapping = _convert(home, args, over_earlier=False, write=False)
        imported, counts, shown = conversion.imported, conversion.counts, preview(conversion, mapping, args.rows)
    else:
        imported = _read_standard(args, key_for_import(home.root / KEY_FILE, over_earlier=False, write=False))
        counts, shown = {}, after_only(imported, args.rows)
    if args.html:
        write_private(args.html.expanduser(), preview_page(shown, imported.problems, f"{utc()[:16].replace('T', ' ')} UTC"))
    if out.as_json:
        content = _facts(imported, counts) | {"dry_run": True, "local": LOCAL, "rows": [each.to_dict() for each in shown]}
        out.facts("import", content)
    else:
        print(LOCAL)
        _show_rows(shown, out)
        _show_counts(imported, counts, out)
        out.say(
            "Nothing was written: this was a dry run."
            if not args.html
            else f"written: {args.html}, and no table: this was a dry run."
        )
    return 0 if args.allow_problems or not (imported.problems or imported.review) else 1


def _show_rows(shown: "Sequence[Shown]", out: Output) -> None:
    for each in shown:
        lines = [
            {"column": _plain(line.column), "before": _plain(line.before), "after": _plain(line.after)}
            for line in each.lines
            if line.before or line.after
        ]
        out.rows(escape(_plain(f"{each.table}: row {each.row} of {each.source or 'the source'}: {each.outcome}")), lines)


def _plain(text: str) -> str:
    """Text without characters that would steer the terminal: an export may hold anything."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _tell(
    imported: "Imported", counts: Mapping[str, Any], report: "ContractReport", folder: Path, review: Path, out: Output
) -> None:
    if out.as_json:
        more = {"written": str(folder), "review_list": str(review) if imported.review else "", "validation": report.to_dict()}
        out.facts("import", _facts(imported, counts) | more)
        return
    _show_counts(imported, counts, out)
    if imported.review:
        out.say(f"{len(imported.review)} texts for a reviewer: {review}")
        by_mapping = "Fill in code, who and date, keep it as reviewed.csv beside the mapping, and import again."
        out.say(by_mapping if counts else "Give each a line in the hospital's own crosswalk (--crosswalk), and import again.")
    read, accepted = (sum(getattr(each, name) for each in report.tables) for name in ("read", "accepted"))
    out.say(f"checked: {read} rows, {accepted} accepted, {report.quarantined} in quarantine")
    out.say(f"details: wardround-site data validate --folder {folder}")
    out.say(f"written: {folder}")


def _show_counts(imported: "Imported", counts: Mapping[str, Any], out: Output) -> None:
    from tasks.importing.preview import problem_text

    out.rows("read", [{"source": name, "rows": rows} for name, rows in imported.read.items()])
    rows = [{"table": name, **vars(count)} for name, count in counts.items()]
    out.rows("tables", rows or [{"table": name, "written": len(frame)} for name, frame in imported.tables.items()], empty="none")
    out.say(
        f"what could not be brought over:\n{problem_text(imported.problems)}"
        if imported.problems
        else "Every row and cell was brought over."
    )


def _facts(imported: "Imported", counts: Mapping[str, Any]) -> dict[str, object]:
    """All but cells of patients; drugs' names are counted, not shown."""
    return {
        "read": dict(imported.read),
        "tables": {
            name: vars(counts[name]) if name in counts else {"written": len(frame)} for name, frame in imported.tables.items()
        },
        "problems": [vars(each) for each in imported.problems],
        "review": len(imported.review),
    }
