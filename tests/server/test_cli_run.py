"""`simulate` refuses what cannot work before it makes a site, and every page of a run says what its epsilon is."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from server import cli_run, rounds
from server.cli import main
from server.cli_output import Output
from server.cli_run import closing_facts, closing_table, finish, run_simulated
from server.errors import JournalError
from server.folder import RunFolder
from server.simulate import Prepared
from server.state import RunState, read_state

Cli = Callable[..., tuple[int, str, str]]
Make = Callable[..., RunFolder]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*words: str) -> tuple[int, str, str]:
        try:
            code = main(["--home", str(tmp_path / "lead"), *words])
        except SystemExit as stopped:
            code = int(str(stopped.code))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sites", "2"), "--sites 2 must be 3 to"),
        (("--patients", "5"), "--patients 5 at least 20"),
        (("privacy=epsilon9",), "epsilon9"),
        (("schedule.round=3",), "schedule.rounds"),
        (("not an override",), "write group=choice"),
        (("--sites", "3", "--data", "x"), "not allowed with"),
    ],
)
def test_wrong_input_is_named_before_a_site_is_made(cli: Cli, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    code, _, err = cli("simulate", *words, "--out", str(tmp_path / "out"))
    assert code == 2
    assert said in err
    assert not (tmp_path / "out" / "sites").exists()


def test_a_folder_with_something_in_it_is_never_written_to(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    code, _, err = cli("simulate", "--out", str(tmp_path / "out"))
    assert (code, "is not empty: name a new folder" in err) == (2, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_data_without_sites_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    code, _, err = cli("simulate", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"))
    assert (code, "0 folders with mapping.yaml" in err) == (1, True)


def rendered(run: RunFolder) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(closing_table(run.path))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def words(shown: str) -> str:
    """Without the table's line breaks."""
    return " ".join(shown.split())


def test_the_closing_table_says_what_each_site_spent_and_where_the_number_comes_from(run_folder: Make) -> None:
    shown = rendered(run_folder())
    assert "so far, computed from the plan and the rounds asked." in words(shown)
    assert [line.split("│")[3:5] for line in shown.splitlines() if "oslo" in line] == [[" 1.77            ", " 1.20          "]]
    assert "5 rounds done, 1 lost, 0 resumed" in shown
    assert "NOT PRIVATE" not in shown


def test_the_closing_table_of_a_run_without_noise_says_so(run_folder: Make) -> None:
    assert rendered(run_folder(private=False)).count("NOT PRIVATE") >= 5  # title, sites, note


def test_facts_of_a_run_that_never_began() -> None:
    assert closing_facts(RunState()) == ["0 rounds done, 0 lost, 0 resumed"]


def test_figures_come_with_the_noise_they_were_measured_with(run_folder: Make) -> None:
    facts = closing_facts(read_state(run_folder().path))
    assert "pooled AUC 0.800 on test patients: the final model" in facts
    assert "9.0 kB and 0.61 s a round, all sites together" in facts


def test_only_a_finished_run_exits_with_0_and_leaves_a_model(run_folder: Make, capsys: pytest.CaptureFixture[str]) -> None:
    for finished, expected in ((True, 0), (False, 1)):
        run = run_folder(f"run-{finished}", finished=finished)
        assert finish(run.path, read_state(run.path), Output(False)) == expected
        assert (run.model / "card.md").is_file() == finished
        assert ("wardround-lead resume" in capsys.readouterr().out) != finished
        assert run.report.is_file()


def test_an_error_of_the_driver_reaches_the_caller(new_folder: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    class Nobody:
        def __init__(self, *_: object, **__: object) -> None: ...

        def close(self) -> None:
            closed.append(True)

    def fail(*_: object) -> None:
        raise JournalError("no space left")

    monkeypatch.setattr(cli_run, "PipeTransport", Nobody)
    monkeypatch.setattr(rounds, "run", fail)
    run = new_folder()
    prepared = Prepared(run.path, run.roster(), run.signed_roster(), None)  # type: ignore[arg-type]
    with pytest.raises(JournalError, match="no space left"):
        run_simulated(run, prepared, workers=1, show=False)
    assert closed == [True]
