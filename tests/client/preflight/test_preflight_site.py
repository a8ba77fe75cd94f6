"""What is wrong with the site itself: settings, roster, policy, ledger, tables; and a site in order has no problem."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checked_site import Checked
from guards_in_process import ENDLESS, SITES, Consortium

from client.clock import utc
from client.config import load_config, write_config
from client.daemon import open_site
from client.preflight import site as site_probes
from client.preflight.findings import NotTried, Problem
from server.tls import TlsFiles

SITE = SITES[0]
GUARD = ("--part", "guard")


@pytest.fixture
def joined(consortium: Consortium, hub_files: TlsFiles, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Checked:
    """The first hospital with its own copy of its tables."""
    consortium.policy(ENDLESS)
    home = consortium.home(SITE)
    config = load_config(home)
    shutil.copytree(config.data, tmp_path / "tables")
    write_config(home, type(config)(**{**vars(config), "data": tmp_path / "tables"}))
    return Checked(home, hub_files, capsys)


def test_a_site_in_order_has_no_problem_in_the_guards_container(joined: Checked) -> None:
    rows = joined.check(*GUARD, status=0)
    assert {row["state"] for row in rows.values()} == {"ok"}
    assert {"port", "gateway"}.isdisjoint(rows)


def no_policy(site: Checked) -> None:
    site.home.policy.unlink()


def bad_policy(site: Checked) -> None:
    site.home.policy.write_text("budget_epsilon: 1\nbudget_epsilon: 9\n")


def no_ledger(site: Checked) -> None:
    site.home.ledger.unlink()


def no_head(site: Checked) -> None:
    site.home.ledger.with_name("ledger.jsonl.head").unlink()


def bad_ledger(site: Checked) -> None:
    site.home.ledger.write_bytes(site.home.ledger.read_bytes().replace(b'"consortium":"test"', b'"consortium":"tess"'))


def no_tables(site: Checked) -> None:
    shutil.rmtree(load_config(site.home).data)


def empty_folder(site: Checked) -> None:
    no_tables(site)
    load_config(site.home).data.mkdir()


def broken_table(site: Checked) -> None:
    table = load_config(site.home).data / "cis_export.csv"
    table.write_text(table.read_text("cp1252").splitlines()[0].replace(";", ";x") + "\nCANARY-7;1\n")


def no_config(site: Checked) -> None:
    site.home.config.unlink()


def unknown_key(site: Checked) -> None:
    site.home.config.write_text(site.home.config.read_text() + "colour: blue\n")


def strange_task(site: Checked) -> None:
    site.home.config.write_text(site.home.config.read_text().replace("cis_conversion", "stroke"))


def no_roster(site: Checked) -> None:
    site.home.roster.unlink()


def another_name(site: Checked) -> None:
    site.home.config.write_text(site.home.config.read_text().replace('site: "hospital-1"', 'site: "hospital-2"'))


def open_key(site: Checked) -> None:
    site.home.identity.chmod(0o644)


@pytest.mark.parametrize(
    ("name", "code", "spoil"),
    [
        ("policy", "POLICY_MISSING", no_policy),
        ("policy", "POLICY_BAD", bad_policy),
        ("ledger", "LEDGER_MISSING", no_ledger),
        ("ledger", "LEDGER_MISSING", no_head),
        ("ledger", "LEDGER_BAD", bad_ledger),
        ("data", "DATA_MISSING", no_tables),
        ("data", "DATA_MISSING", empty_folder),
        ("data", "DATA_BAD", broken_table),
        ("configuration", "CONFIG", no_config),
        ("configuration", "CONFIG", unknown_key),
        ("configuration", "TASK", strange_task),
        ("roster", "ROSTER_MISSING", no_roster),
        ("roster", "ROSTER_KEY", another_name),
        ("keys", "OPEN_TO_OTHERS", open_key),
    ],
)
def test_what_is_wrong_is_one_line(joined: Checked, name: str, code: str, spoil: Callable[[Checked], None]) -> None:
    spoil(joined)
    found = joined.finds(name, code, asked=GUARD)
    assert "CANARY" not in str(found)


def test_a_ledger_held_by_somebody_who_is_no_guard(joined: Checked, consortium: Consortium) -> None:
    opened = open_site(joined.home, site=SITE, tasks=("cis_conversion",), train=lambda job, deadline: None, now=consortium.clock())  # type: ignore[arg-type, return-value]
    try:
        joined.finds("ledger", "LEDGER_HELD", "no guard answers", asked=GUARD)
    finally:
        opened.ledger.close()


@pytest.mark.parametrize("planted", ["list", "link", "pipe", "endless"])
def test_what_a_gateway_plants_in_place_of_its_display_is_not_followed_nor_waited_for(joined: Checked, planted: str) -> None:
    board = joined.home.root / "gateway" / "state" / "gateway.json"
    board.parent.mkdir(parents=True, exist_ok=True)
    if planted == "list":
        board.write_text("[]")
    elif planted == "link":
        (other := joined.home.root / "other.json").write_text('{"supernode": "refused", "detail": "from elsewhere"}')
        board.symlink_to(other)
    elif planted == "pipe":
        os.mkfifo(board)
    else:
        board.symlink_to("/dev/zero")
    with pytest.raises(NotTried, match="cannot be read"):
        site_probes.gateway(joined.home)


def test_a_gateway_that_the_hub_refused_is_not_registered(joined: Checked) -> None:
    board = joined.home.root / "gateway" / "state" / "gateway.json"
    board.parent.mkdir(parents=True)
    said = {"supernode": "refused", "since": "2026-11-30T07:00:00Z", "beat": utc()}
    board.write_text(json.dumps(said))
    with pytest.raises(Problem, match="hub refused this site's gateway"):
        site_probes.gateway(joined.home)
    board.write_text(json.dumps(said | {"supernode": "connected"}))
    assert site_probes.gateway(joined.home) == "connected since 2026-11-30T07:00:00Z"


@pytest.mark.parametrize("beat", ["2026-11-30T07:00:00Z", None])
def test_a_gateway_that_ended_is_not_connected_whatever_it_said_last(joined: Checked, beat: str | None) -> None:
    board = joined.home.root / "gateway" / "state" / "gateway.json"
    board.parent.mkdir(parents=True)
    board.write_text(json.dumps({"supernode": "connected", "since": "2026-11-30T07:00:00Z", "beat": beat}))
    assert site_probes.gateway(joined.home).startswith("not running")
    board.write_text("[]")
    with pytest.raises(NotTried, match="cannot be read"):
        site_probes.gateway(joined.home)


def test_no_home_at_all(joined: Checked, tmp_path: Path) -> None:
    joined.home = type(joined.home)(tmp_path / "nowhere")
    joined.finds("configuration", "NO_HOME", "nowhere", asked=GUARD)


def test_the_gateways_part_imports_no_framework(tmp_path: Path) -> None:
    """Its container is small, and the check is quick there."""
    code = "import sys, client.cli_check; print([name for name in ('torch', 'flwr', 'grpc') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert done.stdout.strip() == "[]"
