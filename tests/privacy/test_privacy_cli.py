"""`wardround-audit` tells the truth by its exit status, in words and in JSON, and needs nothing but the audit install."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consortium.identity import SigningKey, fingerprint
from privacy.cli import BANNER, main
from privacy.events import NonPrivateEvent, PoissonGaussianEvent, Spend
from privacy.ledger import Ledger, head_path

from .conftest import KEY, NOW, TRAIN, details, make_ledger

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
