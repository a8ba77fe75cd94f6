"""`wardround-site egress`: exactly what left this hospital, when, how much, and whether its ledger vouches for the list."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from client.cli_output import Output
from client.egress import NO_RUN, EgressManifest
from client.errors import ConfigError
from client.home import Home
from privacy.entries import Egress, Entry
from privacy.errors import LedgerError
from privacy.ledger import read_entries
from privacy.manifest import REFUSAL, Linked, verify_manifest

DIGITS_SHOWN = 16  # of a digest, for people; `--json` has all of it

Line = tuple[int, dict[str, Any]]  # its number in the file, from 1, and what it says


def add_egress(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    what = "exactly what left in a run; does the ledger vouch for it"
    egress = verbs.add_parser("egress", help=what)
    egress.add_argument(
        "run", nargs="?", help=f"run id; without it, the runs that there are ({NO_RUN}: refusals about no plan known here)"
    )
    egress.add_argument("--round", type=int, help="only this round; 0 is what belongs to none, the keys")
    egress.add_argument(
        "--verify", action="store_true", help="check against the ledger; exit status 1 names the first line that does not fit"
    )
    egress.set_defaults(handler=_egress)


def _egress(home: Home, args: argparse.Namespace, out: Output) -> int:
    if args.round is not None and (args.verify or not args.run):
        raise ConfigError("--round belongs to a run and not to --verify, which checks whole manifests: egress RUN --round N")
    manifest = EgressManifest(home.egress)
    if args.verify:
        return _verify(home, manifest, args.run, out)
    if args.run:
        return _show(home, manifest, args, out)
    out.rows("egress", summaries(home), empty="nothing left")
    return 0


def summaries(home: Home) -> list[dict[str, object]]:
    """One row for each run, those included that only the ledger knows."""
    manifest, entries = EgressManifest(home.egress), _entries_or_why(home)
    return [_summary(manifest, run, entries) for run in _all_runs(manifest.runs(), entries if not isinstance(entries, str) else ())]


def egress_entries(home: Home) -> tuple[Entry, ...]:
    """The ledger's whole lines as they stand now, chain and signatures checked. Read before the manifest: a running guard
    writes the manifest first. Raises `LedgerError`."""
    try:
        data = home.ledger.read_bytes()
    except OSError as error:
        raise LedgerError(f"cannot read {home.ledger}: {error.strerror}; restore it from your backup") from error
    return read_entries(data, home.load_identity().public)[0]


def _entries_or_why(home: Home) -> tuple[Entry, ...] | str:
    """For those who only want to look: a ledger that is of no use says why."""
    try:
        return egress_entries(home)
    except LedgerError as error:
        return f"not checked: {error}"


def _all_runs(runs: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    """Also those whose manifest is missing and only the ledger knows."""
    return sorted({*runs, *(entry.content.run_id for entry in entries if isinstance(entry.content, Egress))})


def _linked(manifest: EgressManifest, run: str, entries: tuple[Entry, ...] | str) -> str:
    if isinstance(entries, str):
        return entries
    return verify_manifest(run, manifest.data(run), entries).sentence


def is_refusal(line: dict[str, Any]) -> bool:
    return str(line.get("kind")).startswith(REFUSAL)


def parts_of(line: dict[str, Any]) -> list[dict[str, Any]]:
    """Also of a line that somebody edited: what is no part is not shown, and `--verify` names the line."""
    parts = line.get("parts")
    return [item for item in parts if isinstance(item, dict)] if isinstance(parts, list) else []


def bytes_of(lines: Sequence[Line], *, masked: bool) -> int:
    """Of all parts that are masked, or of all that are not."""
    parts = [item for _, line in lines for item in parts_of(line) if bool(item.get("masked")) == masked]
    return sum(item["bytes"] for item in parts if isinstance(item.get("bytes"), int))


def _summary(manifest: EgressManifest, run: str, entries: tuple[Entry, ...] | str) -> dict[str, object]:
    lines = manifest.numbered(run)
    refusals = sum(is_refusal(line) for _, line in lines)
    return {
        "run": run,
        "answers": len(lines) - refusals,
        "refusals": refusals,
        "bytes masked": bytes_of(lines, masked=True),
        "bytes other": bytes_of(lines, masked=False),
        "ledger": _linked(manifest, run, entries),
    }


def _show(home: Home, manifest: EgressManifest, args: argparse.Namespace, out: Output) -> int:
    entries = _entries_or_why(home)
    lines = [(number, line) for number, line in manifest.numbered(args.run) if args.round in (None, line.get("round"))]
    if out.as_json:
        out.rows("egress", [line for _, line in lines])
        return 0
    rows = [_row(number, line, item) for number, line in lines for item in parts_of(line)]
    out.rows(f"egress of {args.run}", rows, empty="nothing left")
    if lines:
        out.rows("in all", _totals(lines))
    out.say(_linked(manifest, args.run, entries))
    return 0


def _row(number: int, line: dict[str, Any], item: dict[str, Any]) -> dict[str, object]:
    said = {name: line.get(name, "?") for name in ("round", "time", "kind")}
    of_part = {name: item.get(name, "?") for name in ("what", "shape", "bytes")}
    if of_part["shape"] == f"{of_part['bytes']} bytes":
        of_part["shape"] = ""  # the next column says it
    masked = "yes" if item.get("masked") else "no"
    return {"line": number, **said, **of_part, "masked": masked, "sha256": str(item.get("sha256"))[:DIGITS_SHOWN]}


def _totals(lines: Sequence[Line]) -> list[dict[str, object]]:
    kinds = list(dict.fromkeys(str(line.get("kind")) for _, line in lines))
    grouped = [(kind, [one for one in lines if str(one[1].get("kind")) == kind]) for kind in kinds]
    return [
        {
            "kind": kind,
            "times": len(of_kind),
            "bytes masked": bytes_of(of_kind, masked=True),
            "bytes other": bytes_of(of_kind, masked=False),
        }
        for kind, of_kind in [*grouped, ("everything", list(lines))]
    ]


def _verify(home: Home, manifest: EgressManifest, run: str | None, out: Output) -> int:
    entries = egress_entries(home)
    found = [
        verify_manifest(name, manifest.data(name), entries) for name in ([run] if run else _all_runs(manifest.runs(), entries))
    ]
    if out.as_json:
        out.rows("egress", [{**asdict(one), "ok": one.ok} for one in found])
    else:
        _print(found, out)
    return 0 if all(one.ok for one in found) else 1


def _print(found: Sequence[Linked], out: Output) -> None:
    for one in found:
        out.say(f"{one.run_id}: {one.sentence}")
        for name, findings in (("PROBLEM", one.problems), ("remark", one.remarks)):
            for finding in findings:
                out.say(f"  {name} {finding.text}")
    if not found:
        out.say("nothing left, and the ledger knows of nothing")
