"""Commands of the data manager: are the hospital's tables what they should be, and what should they be? Nothing is sent."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from client import cli_atrophy, cli_harmonise, cli_import, cli_measure, cli_prepare, cli_withdraw
from client.cli_cohort import add_cohort_commands
from client.cli_data_images import add_options, check_images, image_folder
from client.cli_output import Output
from client.clock import utc
from client.config import load_config
from client.errors import ConfigError
from client.free_paths import free, page
from client.home import Home
from client.unexpected import told_without_cells
from tasks.data import load_cohort
from tasks.errors import DataError
from tasks.mapping import MAPPING_FILE
from tasks.ms.contract import CONTRACT
from tasks.ms.dictionary import dictionary_json, dictionary_page
from tasks.ms.findings import LOCAL, SUMMARY
from tasks.ms.quarantine import write_private
from tasks.ms.reading import holds_contract_tables
from tasks.ms.report_page import report_page
from tasks.registry import get_task

if TYPE_CHECKING:
    from tasks.imaging.report import ImageReport
    from tasks.ms.validate import Validated

QUARANTINE = "quarantine"
VALIDATE_EXAMPLES = """examples:
  wardround-site data validate                                    the tables of this site's data folder
  wardround-site data validate --folder /srv/export --html report.html
  wardround-site data validate --json > report.json               for programs
A folder with mapping.yaml holds the hospital's own table; one with manifest.json, or with patients.csv and the like, tables
of the data contract (see `wardround-site data dictionary`). Rows that break a rule are written, with reasons, to the
quarantine; the tables stay as they are. The report names patients by pseudonym: it stays in the hospital.
Images are checked where there are any: in `images` beside the tables (a link to another disk will do), in --images FOLDER,
or in --folder itself, as BIDS or as its images.yaml says. Each file is read once; --headers is quick and reads no voxel.
exit status: 0 tables and images can be used, 1 rows are in quarantine or a file cannot be used, 2 usage or configuration"""
DICTIONARY_EXAMPLE = """example:
  wardround-site data dictionary --html dictionary.html           to read in a browser or to print"""


def add_commands(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    data = verbs.add_parser("data", help="are the tables as they should be, and what should they be")
    kinds = data.add_subparsers(dest="what", required=True)
    shape = argparse.RawDescriptionHelpFormatter
    about = "report out-of-range, duplicated, missing and unknown values; quotes no cell that is wrong"
    validate = kinds.add_parser("validate", help=about, description=about, epilog=VALIDATE_EXAMPLES, formatter_class=shape)
    validate.add_argument("--folder", type=Path, help="folder with the tables (default: the site's data folder)")
    validate.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page to read or print")
    validate.add_argument(
        "--share", type=Path, metavar="FILE", help="write counts alone, none below 10, to hand on if you decide so"
    )
    validate.add_argument(
        "--quarantine", type=Path, metavar="FOLDER", help="where rows that break a rule go (default: in the tables' folder)"
    )
    validate.add_argument("--allow-quarantine", action="store_true", help="status 0 even if rows or images are set aside")
    add_options(validate)
    validate.set_defaults(handler=told_without_cells("the check", _validate))
    about = "the data dictionary: every table, column, code and rule"
    dictionary = kinds.add_parser("dictionary", help=about, description=about, epilog=DICTIONARY_EXAMPLE, formatter_class=shape)
    dictionary.add_argument("--html", type=Path, metavar="FILE", help="write it as a page to read or print")
    dictionary.set_defaults(handler=_dictionary)
    cli_withdraw.add_command(kinds)
    cli_import.add_command(kinds)
    cli_harmonise.add_command(kinds)
    cli_atrophy.add_command(kinds)
    cli_measure.add_command(kinds)
    cli_prepare.add_command(kinds)
    add_cohort_commands(kinds)
    for command in (validate, dictionary):
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print it as JSON")


def _validate(home: Home, args: argparse.Namespace, out: Output) -> int:
    folder = args.folder.expanduser() if args.folder else load_config(home).data
    images = image_folder(folder, args)
    if holds_contract_tables(folder, CONTRACT):
        return _validate_tables(home, args, folder, images, out)
    if images is not None and not (folder / MAPPING_FILE).is_file():
        return _validate_images(args, images, out)
    return _validate_mapping(home, args, folder, images, out)


def _validate_tables(home: Home, args: argparse.Namespace, folder: Path, images: Path | None, out: Output) -> int:
    """Tables of the data contract, and the images whose patients they are about."""
    validated, seen = _checked(folder, images, args)
    report = validated.report
    shown: dict[str, object] = report.to_dict()
    text = report.to_text()
    if (folder / MAPPING_FILE).is_file():
        mapped = load_cohort(folder, get_task(load_config(home).task).contract).report
        shown, text = {"contract": shown, "mapping": mapped.to_dict()}, f"{text}\n{mapped.to_text()}"
    _print(*_with_images(shown, text, seen), out)
    good = seen is None or seen.passed(allow_quarantine=args.allow_quarantine)
    return 0 if good and report.passed(allow_quarantine=args.allow_quarantine) else 1


def _checked(folder: Path, images: Path | None, args: argparse.Namespace) -> "tuple[Validated, ImageReport | None]":
    from tasks.ms.validate import validate_folder  # here: pandas and pandera are for those who check tables

    html = page(args.html) if args.html else None
    share = free(args.share, "--share", _is_summary) if args.share else None
    validated = validate_folder(folder, quarantine=args.quarantine or folder / QUARANTINE)
    seen = check_images(images, args, validated.accepted) if images else None
    if html:
        from tasks.imaging.report_page import TITLE, image_part

        more = [("images", TITLE, image_part(seen))] if seen else []
        write_private(html, report_page(validated.report, _now(), more))
    if share:
        write_private(share, json.dumps(validated.report.shareable(), indent=1) + "\n")
    return validated, seen


def _with_images(shown: dict[str, object], text: str, seen: "ImageReport | None") -> tuple[dict[str, object], str]:
    return (shown, text) if seen is None else ({**shown, "images": seen.to_dict()}, f"{text}\n{seen.to_text()}")


def _validate_images(args: argparse.Namespace, images: Path, out: Output) -> int:
    """Images alone."""
    if given := [name for name in ("share", "quarantine") if getattr(args, name)]:
        raise ConfigError(f"--{given[0]} is for tables of the data contract; {images} holds images")
    from tasks.imaging.report_page import image_page

    html = page(args.html) if args.html else None
    seen = check_images(images, args, None)
    if html:
        write_private(html, image_page(seen, _now()))
    _print({"images": seen.to_dict()}, f"{LOCAL}\n{seen.to_text()}", out)
    return 0 if seen.passed(allow_quarantine=args.allow_quarantine) else 1


def _now() -> str:
    return f"{utc()[:16].replace('T', ' ')} UTC"


def _is_summary(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_bytes())["format"] == SUMMARY)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _validate_mapping(home: Home, args: argparse.Namespace, folder: Path, images: Path | None, out: Output) -> int:
    """The hospital's own table, by its mapping, and images by themselves."""
    if args.folder and not (folder / MAPPING_FILE).is_file():
        raise DataError(f"{folder} holds neither {MAPPING_FILE} nor tables of the data contract, such as patients.csv, nor images")
    if given := [name for name in ("html", "share", "quarantine") if getattr(args, name)]:
        raise ConfigError(f"--{given[0]} is for tables of the data contract; {folder} holds a table with {MAPPING_FILE}")
    report = load_cohort(folder, get_task(load_config(home).task).contract).report
    seen = check_images(images, args, None) if images else None
    _print(*_with_images(report.to_dict(), report.to_text(), seen), out)
    return 0 if seen is None or seen.passed(allow_quarantine=args.allow_quarantine) else 1


def _print(shown: dict[str, object], text: str, out: Output) -> None:
    if out.as_json:
        out.facts("data", shown)
    else:
        print(text)


def _dictionary(home: Home, args: argparse.Namespace, out: Output) -> int:
    if args.html:
        page(args.html).write_text(dictionary_page(CONTRACT), encoding="utf-8")
    if out.as_json:
        out.facts("dictionary", dictionary_json(CONTRACT))
    elif args.html:
        out.say(f"written: {args.html}")
    else:
        rows = [{"table": each.name, "columns": len(each.columns), "one row": each.description} for each in CONTRACT.tables]
        out.rows(f"data contract version {CONTRACT.version}", rows)
        out.say("With --html FILE: every column, code and rule, to read in a browser.")
    return 0
