"""`wardround-audit` tells the truth by its exit status, in words and in JSON, and needs nothing but the audit install."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consortium.identity import SigningKey, fingerprint
from consortium.plan import Participant, Plan, sign_plan
from privacy.cli import BANNER, main
from privacy.events import GaussianEvent, NonPrivateEvent, PoissonGaussianEvent, SharedGaussianEvent, Spend
from privacy.ledger import Ledger, head_path
from privacy.terms import round_spends

from .conftest import KEY, LEAD, NOW, TRAIN, details, make_ledger

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = ("torch", "flwr", "pandas", "mlflow", "hydra", "grpc", "omegaconf", "opacus", "sklearn", "matplotlib")


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main([str(item) for item in arguments])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, Any]:
    status, printed = run(capsys, *arguments, "--json")
    return status, json.loads(printed)


def test_an_honest_ledger_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path, rounds=3)
    status, printed = run(capsys, "verify", path, "--key", fingerprint(KEY.public))
    assert status == 0
    assert "VERIFIED" in printed
    assert "aachen of ms-north" in printed
    assert "head file agrees" in printed
    assert "NOT PRIVATE" not in printed


def test_the_json_report_carries_what_the_table_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path, rounds=2)
    status, document = run_json(capsys, "verify", path)
    (ledger,) = document["ledgers"]
    assert (status, document["ok"], document["forks"]) == (0, True, [])
    assert (ledger["entries"], ledger["key"], ledger["private"]) == (3, fingerprint(KEY.public), True)
    assert ledger["epsilon"][0]["reference"] == pytest.approx(ledger["epsilon"][0]["independent_upper"], abs=1e-3)


def test_a_damaged_ledger_fails_and_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path, rounds=3)
    path.write_bytes(path.read_bytes().replace(b'"round":2', b'"round":5'))
    for command in ("verify", "epsilon"):
        status, printed = run(capsys, command, path)
        assert status == 1
        assert "ledger entry 2" in printed
    assert run(capsys, "show", path)[0] == 1
    assert run(capsys, "epsilon", path, "--delta", "1e-6")[0] == 1


def test_a_missing_head_file_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path)
    head_path(path).unlink()
    status, printed = run(capsys, "verify", path)
    assert status == 0
    assert "a roll-back would not be seen" in printed


def test_the_key_may_be_told_or_given_as_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path)
    raw, text, wrong = tmp_path / "raw", tmp_path / "text", tmp_path / "wrong"
    raw.write_bytes(KEY.public)
    text.write_text(KEY.public.hex() + "\n")
    wrong.write_bytes(SigningKey.from_seed(bytes(32)).public)
    assert run(capsys, "verify", path, "--key", raw)[0] == 0
    assert run(capsys, "verify", path, "--key", text)[0] == 0
    assert run(capsys, "verify", path, "--key", wrong)[0] == 1
    status, printed = run(capsys, "verify", path, "--key", fingerprint(wrong.read_bytes()))
    assert status == 1
    assert "another site's ledger" in printed


@pytest.mark.parametrize("content", [b"short", b"zz" * 20, b"ab" * 31])
def test_an_unusable_key_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    path, key = make_ledger(tmp_path), tmp_path / "key"
    key.write_bytes(content)
    assert run(capsys, "verify", path, "--key", key)[0] == 2
    assert run(capsys, "verify", path, "--key", tmp_path / "none")[0] == 2


def test_a_ledger_that_cannot_be_read_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, printed = run(capsys, "verify", tmp_path / "none")
    assert status == 2
    assert "cannot read" in printed


def test_several_ledgers_are_verified_together_and_a_fork_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_ledger(tmp_path, rounds=1)
    (tmp_path / "copy").mkdir()
    other = tmp_path / "copy" / "ledger.jsonl"
    other.write_bytes(one.read_bytes())
    head_path(other).write_bytes(head_path(one).read_bytes())
    assert run(capsys, "verify", one, other)[0] == 0
    for path, number in ((one, 2), (other, 3)):
        with Ledger.open(path, KEY, NOW) as ledger:
            ledger.spend(details(number), (TRAIN,), NOW)
    status, printed = run(capsys, "verify", one, other)
    assert status == 1
    assert "FORK ledger entry 2" in printed
    assert run_json(capsys, "verify", one, other)[1]["ok"] is False


def test_a_run_without_noise_is_shouted_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path, rounds=1)
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(2), (Spend(NonPrivateEvent(), "train"),), NOW)
    for command in ("verify", "epsilon", "show"):
        status, printed = run(capsys, command, path)
        assert status == 0
        assert BANNER in printed
    status, document = run_json(capsys, "epsilon", path)
    assert status == 0
    assert document["private"] is False
    assert document["epsilon"][0] == {**document["epsilon"][0], "private": False, "reference": None}


def test_epsilon_is_printed_by_both_accountants_and_at_any_delta(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path, rounds=2)
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(3), (Spend(PoissonGaussianEvent(2.0, 0.25), "train", 2),), NOW)
    status, document = run_json(capsys, "epsilon", path, "--delta", "1e-6")
    assert status == 0
    assert [figure["delta"] for figure in document["epsilon"]] == [1e-5, 1e-6]
    for figure in document["epsilon"]:
        assert figure["independent_lower"] < figure["reference"] < figure["independent_upper"]
    assert len(run_json(capsys, "epsilon", path, "--delta", "1e-5")[1]["epsilon"]) == 1
    status, printed = run(capsys, "epsilon", path)
    assert status == 0
    assert " to " in printed


def test_the_three_accountants_are_explained_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path)
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(1), (Spend(PoissonGaussianEvent(4.0, 0.5), "train", 300),), NOW)
    status, printed = run(capsys, "epsilon", path, "--delta", "0.0013719")  # 1/400^1.1
    assert status == 0
    words = " ".join(printed.split())
    for said in (
        "truth lies between 8.3",
        "Tighter: the reference, 8.355",
        "Looser: RDP, 9.31",
        "% above",
        "carries its own noise",
    ):
        assert said in words
    (_, figure) = run_json(capsys, "epsilon", path, "--delta", "0.0013719")[1]["epsilon"]
    assert figure["rdp"] == pytest.approx(9.318, abs=1e-3)
    assert figure["rdp_order"] == 2.5
    assert "Looser: RDP" in figure["explanation"]


def test_shares_of_noise_are_shown_both_ways_in_words_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path)
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(1), (Spend(SharedGaussianEvent(4.0, 4), "train"),), NOW)
    for command in ("verify", "epsilon"):
        status, printed = run(capsys, command, path)
        assert status == 0
        words = " ".join(printed.split())
        assert "epsilon (charged: only sums are opened" in words
        assert "epsilon if one update were read in the clear" in words
        assert "as long as secure aggregation holds" in words
    assert "Gaussian share, noise 4, at least 4 in a sum" in run(capsys, "show", path)[1]
    document = run_json(capsys, "epsilon", path)[1]
    assert document["shares"] is True
    assert document["epsilon_exposed"][0]["reference"] > 1.9 * document["epsilon"][0]["reference"]
    alone = run_json(capsys, "epsilon", make_ledger(tmp_path, rounds=1, name="other.jsonl"))[1]
    assert alone["shares"] is False
    assert alone["epsilon_exposed"] == alone["epsilon"]


def plan_file(path: Path, plan: Plan) -> Path:
    path.write_bytes(sign_plan(plan, LEAD).encode())
    return path


def test_charges_are_compared_with_the_plans(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_plan: Callable[..., Plan]
) -> None:
    sites = tuple(Participant(site, at, 400) for at, site in enumerate(("aachen", "bonn", "kiel")))
    plan = replace(make_plan(), participants=sites)
    signed = plan_file(tmp_path / "plan.signed", plan)
    path = make_ledger(tmp_path)
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(1, plan_digest=plan.digest), round_spends(plan, 1, "train"), NOW)
    status, printed = run(capsys, "verify", path, "--plan", signed)
    assert status == 0
    assert "1 spends compared with 1 plans" in printed
    assert "no plans given" in run(capsys, "verify", path)[1]
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(2, plan_digest=plan.digest), (Spend(GaussianEvent(80.0), "train"),), NOW)
    status, printed = run(capsys, "verify", path, "--plan", signed)
    assert status == 1
    assert "first bad line: 3 (entry 2)" in printed
    assert "charges Gaussian, noise 80 (train); its plan asks for Gaussian, noise 8 (train)" in printed
    document = run_json(capsys, "verify", path, "--plan", signed)[1]
    assert (document["ok"], document["ledgers"][0]["first_bad_line"]) == (False, 3)
    assert document["ledgers"][0]["spends_compared_with_plans"] == 2


@pytest.mark.parametrize("content", [b"", b"no plan", b"\0\0\0\1"])
def test_a_plan_file_that_is_none_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    path, plan = make_ledger(tmp_path), tmp_path / "plan.signed"
    plan.write_bytes(content)
    status, printed = run(capsys, "verify", path, "--plan", plan)
    assert status == 2
    assert "is no signed plan" in printed
    assert run(capsys, "verify", path, "--plan", tmp_path / "none")[0] == 2


def test_many_remarks_are_cut_in_words_and_whole_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path)
    with Ledger.open(path, KEY, NOW) as ledger:
        for number in range(1, 31):
            ledger.spend(details(1, plan_digest=bytes([number]) * 32), (TRAIN,), NOW)
    assert "remark and 10 more: --json has them all" in run(capsys, "verify", path)[1]
    assert len(run_json(capsys, "verify", path)[1]["ledgers"][0]["remarks"]) == 30


@pytest.mark.parametrize("command", ["verify", "epsilon", "show"])
def test_a_folder_is_no_ledger(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, printed = run(capsys, command, tmp_path)
    assert status == 2
    assert f"cannot read {tmp_path}" in printed


def test_every_entry_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_ledger(tmp_path, rounds=2)
    with path.open("ab") as file:
        file.write(b"{")
    with Ledger.open(path, KEY, NOW):
        pass
    with path.open("ab") as file:
        file.write(b"torn")
    status, printed = run(capsys, "show", path)
    assert status == 0
    for words in (
        "genesis",
        "train: Gaussian, noise 20 (held-out); Gaussian, noise 8 (train)",
        "recovered",
        "4 bytes of a torn write",
    ):
        assert words in printed
    status, document = run_json(capsys, "show", path)
    assert [entry["kind"] for entry in document] == ["genesis", "spend", "spend", "recovered"]


def test_an_empty_ledger_is_not_shown_as_if_it_were_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert run(capsys, "show", tmp_path / "empty")[0] == 1
    assert run(capsys, "verify", tmp_path / "empty")[0] == 1


@pytest.mark.parametrize(
    "arguments", [[], ["refund"], ["verify"], ["epsilon", "x", "--delta", "2"], ["epsilon", "x", "--delta", "y"]]
)
def test_a_wrong_command_line_exits_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize("command", [[], ["verify"], ["epsilon"], ["show"]])
def test_help_has_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "example: wardround-audit" in capsys.readouterr().out


def test_it_runs_where_no_training_framework_is_installed(tmp_path: Path) -> None:
    path = make_ledger(tmp_path, rounds=2)
    with Ledger.open(path, KEY, NOW) as ledger:
        ledger.spend(details(3), (Spend(PoissonGaussianEvent(2.0, 0.25), "train", 2),), NOW)
    program = f"""
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["wardround-audit", *sys.argv[1:]]
runpy.run_module("privacy.cli", run_name="__main__")
"""
    for arguments in (["--help"], ["verify", str(path)], ["epsilon", str(path), "--json"], ["show", str(path)]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
