"""A third party adds a task by installing a package, and a broken package stops nobody else."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.errors import RegistryError
from tasks.registry import available, get_task

REPOSITORY = Path(__file__).resolve().parents[2]
HEART = REPOSITORY / "tests" / "heart_task"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package on the path as an installer would: a module and its entry point."""

    def put(package: str, task: str, value: str, source: str = "") -> None:
        folder = tmp_path / package
        info = folder / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[wardround.tasks]\n{task} = {value}\n")
        (folder / f"{value.partition(':')[0]}.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))

    return put


def test_the_built_in_task_is_there() -> None:
    task = get_task("cis_conversion")
    assert (task.name, task.version, task.contract.task) == ("cis_conversion", "1", "cis_conversion")
    assert task.contract.column_names[:2] == ("sex", "age_years")


def test_a_strangers_package_adds_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HEART))
    assert available()["heart_disease"] == "wardround-heart"
    task = get_task("heart_disease")
    assert task.build_model("logistic", {}) is not None


def test_a_strangers_package_is_found_by_a_fresh_process() -> None:
    code = "from tasks.registry import get_task; print(get_task('heart_disease').contract.label.name)"
    environment = {"PYTHONPATH": f"{REPOSITORY}:{HEART}", "PATH": ""}
    found = subprocess.run(  # our own interpreter, fixed arguments
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=HEART
    )
    assert found.stdout == "disease\n"


def test_listing_imports_no_package(install: Install) -> None:
    install("loud", "loud_task", "loud_module:TASK", "raise SystemExit('imported')")
    assert available()["loud_task"] == "loud"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("x = ", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("OTHER = 1", "AttributeError"),
        ("TASK = 'a text'", "has not all members"),
        ("from tasks.cis_conversion.task import TASK", "offers the task 'cis_conversion' under the name 'broken_task'"),
    ],
)
def test_a_broken_package_is_named_and_breaks_no_other(install: Install, source: str, words: str) -> None:
    module = f"broken_{abs(hash(source))}"
    install("broken-package", "broken_task", f"{module}:TASK", source)
    with pytest.raises(RegistryError, match=words) as caught:
        get_task("broken_task")
    assert "broken-package" in str(caught.value)
    assert get_task("cis_conversion").name == "cis_conversion"


def test_a_built_in_name_cannot_be_taken_over(install: Install) -> None:
    install("impostor", "cis_conversion", "impostor_module:TASK")
    with pytest.raises(RegistryError, match="wardround and impostor"):
        get_task("cis_conversion")
    assert "ambiguous" in available()["cis_conversion"]


def test_two_packages_with_one_name_are_ambiguous(install: Install) -> None:
    install("first", "shared_task", "first_module:TASK")
    install("second", "shared_task", "second_module:TASK")
    with pytest.raises(RegistryError, match="first and second"):
        get_task("shared_task")


def test_an_unknown_task_lists_the_known() -> None:
    with pytest.raises(RegistryError, match=r"unknown task 'x'; available: .*cis_conversion"):
        get_task("x")


def test_reading_and_checking_tables_needs_no_torch() -> None:
    code = "import sys, tasks.data, tasks.features, tasks.metrics, tasks.splits; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)  # as above
