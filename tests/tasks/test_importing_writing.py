"""The folder of an import is whole or not there; what was there before is never lost, whatever fails and whenever."""

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from tasks.importing import writing
from tasks.importing.base import Imported
from tasks.importing.errors import ImportRefused
from tasks.importing.writing import check_target, write_contract
from tasks.ms.validate import validate_folder


def imported(*names: str, **more: object) -> Imported:
    columns = {"patient_id": list(names), "sex": pd.Series(["F"] * len(names), dtype=object), "height_cm": [170.0] * len(names)}
    return Imported({"patients": pd.DataFrame({**columns, "source": "rwd", **more})}, (), (), {})


def names(folder: Path) -> list[str]:
    return [line.partition(",")[0] for line in (folder / "patients.csv").read_text(encoding="utf-8").splitlines()[1:]]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_is_for_its_owner_and_passes_the_check(tmp_path: Path) -> None:
    write_contract(imported("a", "b"), tmp_path / "out", site="klinik")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o600}
    report = validate_folder(tmp_path / "out").report
    assert (report.passed(allow_quarantine=False), report.site, report.of("note")) == (True, "klinik", ())
    assert (tmp_path / "out" / "patients.csv").read_text(
        encoding="utf-8"
    ) == "patient_id,sex,height_cm,source\na,F,170,rwd\nb,F,170,rwd\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_contract(imported("a"), tmp_path / "out", site="klinik")
    assert names(tmp_path / "out") == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_former_export_is_kept_and_what_is_not_a_table_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_contract(imported("a"), out, site="klinik")
    (out / "withdrawn.txt").write_text("a\n")
    (out / "notes").mkdir()
    (out / "notes" / "x.txt").write_text("x")
    (out / "quarantine").mkdir()
    (out / "quarantine" / "patients.csv").write_text("old")
    (out / "visits.csv").write_text("an older table")
    write_contract(imported("b"), out, site="klinik", replace=True)
    assert (names(out), names(tmp_path / "out.former")) == (["b"], ["a"])
    assert sorted(everything(out)) == ["manifest.json", "notes/x.txt", "patients.csv", "withdrawn.txt"]
    assert "visits.csv" in everything(tmp_path / "out.former")
    write_contract(imported("c"), out, site="klinik", replace=True)
    assert (names(out), names(tmp_path / "out.former")) == (["c"], ["b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.former"]


@pytest.mark.parametrize("make", ["full", "foreign", "file", "link", "no parent"])
def test_a_folder_that_is_no_former_export_is_refused_and_untouched(tmp_path: Path, make: str) -> None:
    out = tmp_path / "out"
    if make in {"full", "foreign"}:
        out.mkdir()
        (out / "thesis.txt").write_text("ten years")
        (out / ("manifest.json" if make == "full" else "other.json")).write_text("{}")
    elif make == "file":
        out.write_text("ten years")
    elif make == "link":
        (tmp_path / "real").mkdir()
        out.symlink_to(tmp_path / "real")
    else:
        out = tmp_path / "none" / "out"
    before = everything(tmp_path)
    with pytest.raises(ImportRefused, match=r"name another|name the folder|make it first"):
        check_target(out, replace=make != "full")
    with pytest.raises(ImportRefused):
        write_contract(imported("b"), out, site="klinik", replace=make != "full")
    assert everything(tmp_path) == before


@pytest.mark.parametrize("broken", ["_exchange", "_keep_others", "write_new", "file_digest"])
@pytest.mark.parametrize("older", [False, True])
def test_a_failure_at_any_step_leaves_the_former_export_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, older: bool
) -> None:
    out = tmp_path / "out"
    for turn in range(2 if older else 1):
        write_contract(imported(f"a{turn}"), out, site="klinik", replace=True)
    before = everything(tmp_path)

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing, broken, fail)
    with pytest.raises(ImportRefused, match="No space left on device; what was there before is untouched"):
        write_contract(imported("b"), out, site="klinik", replace=True)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("call", range(1, 3))
def test_a_failing_rename_leaves_the_former_export_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    out = tmp_path / "out"
    for name in ("a", "b"):
        write_contract(imported(name), out, site="klinik", replace=True)
    before, calls, rename = everything(tmp_path), [], Path.rename

    def fail(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ImportRefused, match="untouched"):
        write_contract(imported("c"), out, site="klinik", replace=True)
    assert everything(tmp_path) == before


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_importing_writing import imported
from tasks.importing import writing
step, out = sys.argv[1], Path(sys.argv[2])
true = getattr(writing, step)
def die(*args):
    if {after}:
        true(*args)
    os.kill(os.getpid(), 9)
setattr(writing, step, die)
writing.write_contract(imported("b"), out, site="klinik", replace=True)
"""


@pytest.mark.parametrize(
    ("step", "after"), [("_keep_others", False), ("_exchange", False), ("_exchange", True), ("sync_folder", False)]
)
def test_a_killed_import_leaves_a_whole_export(tmp_path: Path, step: str, after: bool) -> None:
    out = tmp_path / "out"
    write_contract(imported("a"), out, site="klinik")
    script = KILLED.format(path=[str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])], after=after)
    ended = subprocess.run([sys.executable, "-c", script, step, out], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    new = (step, after) in {("_exchange", True), ("sync_folder", False)}
    assert names(out) == (["b"] if new else ["a"])
    assert validate_folder(out).report.file_errors == 0
    if new:
        assert names(tmp_path / "out.former") == ["a"]
    write_contract(imported("c"), out, site="klinik", replace=True)
    assert names(out) == ["c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.former"]  # nothing of the killed one stays


def test_a_file_that_cannot_grow_is_a_clear_error(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_contract(imported("a"), out, site="klinik")
    before = everything(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(ImportRefused, match="cannot be written: File too large"):
            write_contract(imported(*(f"p{number}" for number in range(1000))), out, site="klinik", replace=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything(tmp_path) == before


def test_a_column_that_the_contract_does_not_have_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ImportRefused, match="the column 'hospital_number'"):
        write_contract(imported("a", hospital_number="4711"), tmp_path / "out", site="klinik")
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_written_as_the_check_reads_them(tmp_path: Path) -> None:
    write_contract(imported("a", "b", "c", weight_kg=[68.265651685, float("nan"), 0.1 + 0.2]), tmp_path / "out", site="klinik")
    cells = [line.split(",")[3] for line in (tmp_path / "out" / "patients.csv").read_text().splitlines()[1:]]
    assert [float(cell) if cell else None for cell in cells] == [68.265651685, None, 0.1 + 0.2]


def test_of_two_imports_into_a_new_folder_the_second_is_refused_and_none_is_lost(tmp_path: Path) -> None:
    out, begin = tmp_path / "out", threading.Barrier(2)
    said: list[str] = []

    def bring(name: str) -> None:
        check_target(out, replace=False)  # both find nothing there
        begin.wait(10)
        try:
            write_contract(imported(name), out, site="klinik")
        except ImportRefused as error:
            said.append(str(error))

    threads = [threading.Thread(target=bring, args=(name,)) for name in ("a", "b")]
    for each in threads:
        each.start()
    for each in threads:
        each.join(20)
    assert [text for text in said if "is not empty" in text] == said
    assert len(said) == 1
    assert len(names(out)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
