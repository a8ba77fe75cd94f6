"""What people read about a run: status, comparison, page, card, exported model. All of it from plan and journal."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from consortium.canonical import decode_json
from consortium.plan import Plan
from server import strategy as strategies
from server.card import metrics_text, model_card
from server.charts import Mark, axis, line_chart
from server.checkpoint import latest_checkpoint, model_digest
from server.errors import FolderError, ServerError
from server.export import copy_export, describe, export_model, final_model
from server.folder import RunFolder, create_folder
from server.model import parameters_of, released_model, step_model, tensors, with_buffers, with_parameters
from server.report import compare, status, write_report
from server.row_gap import RowGap, write_row_gap
from server.state import read_state

Make = Callable[..., RunFolder]


class Tags(HTMLParser):
    """Every tag and attribute of a page; unbalanced pages fail."""

    VOID = ("meta", "br", "line", "circle", "rect", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in self.VOID or (tag == "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag == "rect":
            return
        assert self.open.pop() == tag


def test_status_says_where_a_run_stands(run_folder: Make) -> None:
    found = status(run_folder(finished=False).path)
    assert (found["phase"], found["rounds_done"], found["rounds_planned"], found["failed_rounds"]) == ("running", 3, 4, 1)
    assert found["sites"] == {"basel": 5, "kaunas": 5, "lyon": 5, "oslo": 4}
    assert found["metrics"] == {"auc": 0.8, "brier": 0.19}
    assert found["epsilon"]["basel"] == ["1.77", "1.20"]  # type: ignore[index, call-overload]
    assert found["epsilon"]["oslo"] == ["1.77", "1.20"]  # type: ignore[index, call-overload]


def test_compare_puts_the_best_first_and_says_not_private(run_folder: Make) -> None:
    early, late = run_folder("early", last=2), run_folder("late", private=False)
    rows = compare([early.path, late.path])
    assert [row["auc"] for row in rows] == [0.8, 0.6]
    assert [row["epsilon_exposed"] for row in rows] == ["NOT PRIVATE", 3.0]


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("last", [0, 1, 6])
def test_the_page_asks_nobody_for_anything(run_folder: Make, private: bool, last: int) -> None:
    path = write_report(run_folder(private=private, last=last, finished=last == 6).path)
    text, tags = path.read_text(), Tags()
    tags.feed(text)
    assert tags.open == []
    assert not {"src", "href", "onclick", "onload"} & {name for name, _ in tags.attributes}
    assert not re.search(r"https?:|url\(|@import|<script", text)
    assert ("NOT PRIVATE" in text) != private


def test_the_page_escapes_what_others_wrote(plan: Plan, new_folder: Make) -> None:
    from server.report import page
    from server.state import RunState

    hostile = RunState(phase="running", sites=plan.sites)
    object.__setattr__(hostile, "phase", "<img src=x>")
    assert "<img" not in page(plan, hostile, colluders=1)


def test_the_card_states_the_guarantee_in_words(run_folder: Make) -> None:
    folder = run_folder()
    card = model_card(folder.plan(), read_state(folder.path), colluders=1)
    for words in (
        "3.00",
        "1.20",
        "1.0e-05",
        "one patient with all visits",
        "one patient more",
        "dp-accounting",
        "hub and all other",
    ):
        assert words in card
    assert "NOT PRIVATE" not in card
    assert "| oslo | 200 | 0.400 | 4 | 1.77 | 1.20 |" in card
    assert "so far, computed from the plan and the rounds asked." in card
    assert "ublished" not in card


def test_figures_that_noise_drowns_are_not_offered_as_results() -> None:
    assert metrics_text([("auc", 0.8), ("noise_dominates", 0.0)]) == "AUC 0.800"
    assert "do not read them" in metrics_text([("auc", 0.8), ("noise_dominates", 1.0)])


def test_the_card_of_a_run_without_privacy_opens_with_the_banner(run_folder: Make) -> None:
    folder = run_folder(private=False)
    assert "> **NOT PRIVATE**" in "\n".join(model_card(folder.plan(), read_state(folder.path), colluders=1).splitlines()[:3])


def test_the_exported_model_is_the_released_one_and_opens_without_pickle(run_folder: Make) -> None:
    folder = run_folder()
    directory = export_model(folder)
    plan = folder.plan()
    with np.load(directory / "weights.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    assert list(found) == ["feature_mean", "feature_scale", "output.weight", "output.bias"]
    assert found["output.weight"].tolist() == [[0.5, 0.5]]  # the running average in the checkpoint, not the last weights
    assert found["feature_mean"].tolist() == pytest.approx([6.0, 6.1])
    description = decode_json((directory / "model.json").read_bytes())
    assert isinstance(description, dict)
    assert description["model_digest"] == model_digest(final_model(folder, plan)).hex()
    first = (directory / "weights.npz").read_bytes()
    assert (export_model(folder) / "weights.npz").read_bytes() == first


def test_an_export_never_overwrites_a_folder(run_folder: Make, tmp_path: Path) -> None:
    folder = run_folder()
    assert (copy_export(folder, tmp_path / "out") / "card.md").is_file()
    with pytest.raises(ServerError, match="exists"):
        copy_export(folder, tmp_path / "out")


def test_without_a_checkpoint_there_is_nothing_to_export(new_folder: Make) -> None:
    with pytest.raises(ServerError, match="no usable checkpoint"):
        export_model(new_folder())


def test_a_step_leaves_the_buffers_alone(plan: Plan) -> None:
    strategy = strategies.build(plan.strategy.name, dict(plan.strategy.options))
    model = with_buffers(plan, np.zeros(plan.model_size, np.float32), {"feature_scale": np.array([2.0, 3.0])})
    state, stepped = step_model(plan, strategy, strategy.init(parameters_of(plan, model)), model, np.ones(3))
    assert tensors(plan, stepped)["feature_scale"].tolist() == [2.0, 3.0]
    assert parameters_of(plan, stepped).min() > 0
    average = released_model(plan, strategy, state, stepped)
    assert parameters_of(plan, average).tolist() == pytest.approx((parameters_of(plan, stepped) / 2).tolist())


def test_a_model_that_does_not_fit_the_plan_is_refused(plan: Plan) -> None:
    model = np.zeros(plan.model_size, np.float32)
    with pytest.raises(ServerError, match="the plan's is float32"):
        parameters_of(plan, model[:-1])
    with pytest.raises(ServerError, match="range of float32"):
        with_parameters(plan, model, np.full(plan.n_parameters, 1e300))
    with pytest.raises(ServerError, match="'feature_media' is not in the plan"):
        with_buffers(plan, model, {"feature_media": np.zeros(2)})
    with pytest.raises(ServerError, match="must be finite"):
        with_buffers(plan, model, {"feature_mean": np.array([np.nan, 0.0])})


def test_a_run_folder_belongs_to_one_plan(run_folder: Make, plan: Plan) -> None:
    folder = run_folder(private=True)
    again = create_folder(folder.path, folder.signed_plan(), folder.signed_roster())
    assert latest_checkpoint(again.checkpoints, plan.digest, model_size=plan.model_size).checkpoint is not None
    other = run_folder("other", private=False)
    with pytest.raises(FolderError, match="name another folder"):
        create_folder(folder.path, other.signed_plan(), other.signed_roster())


def test_axes_have_round_ticks_and_survive_one_value() -> None:
    assert list(axis([0.62, 0.81], at_least=0.5, at_most=1.0).ticks) == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert list(axis([1.0, 82.0], whole=True).ticks) == [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    one = axis([3.0])
    assert one.low < 3.0 < one.high
    assert axis([]).ticks[0] == 0.0


def test_an_error_bar_stays_inside_the_chart() -> None:
    unit = axis([0.0, 1.0])
    drawn = line_chart([Mark(0.5, 0.5, "x", spread=9.0)], name="n", x_name="x", y_name="y", x=unit, y=unit)
    heights = [float(value) for value in re.findall(r'y[12]="([-\d.]+)"', drawn)]
    assert min(heights) >= 0
    assert max(heights) <= 240


def test_figures_beside_training_are_called_validation_and_the_last_ones_test(run_folder: Make) -> None:
    folder = run_folder()
    state = read_state(folder.path)
    assert state.done[-1].purpose == "evaluate"
    early = replace(state, done=tuple(done for done in state.done if done.purpose != "evaluate"))
    plan = folder.plan()
    for found, words, others in (
        (state, "On test patients: the final model", "none of test"),
        (early, "On validation patients", ""),
    ):
        card = model_card(plan, found, colluders=1)
        assert words in card
        assert not others or others not in card
    assert "the run has none of test patients yet" in model_card(plan, early, colluders=1)
    assert status(folder.path)["metrics_of"] == "test patients: the final model"
    assert compare([folder.path])[0]["of"] == "test"
    text = write_report(folder.path).read_text()
    assert "Figures on test patients: the final model" in text
    assert "held-out patients: the final model" not in text


def test_status_tells_what_parting_rows_would_feign(run_folder: Make) -> None:
    folder = run_folder()
    assert status(folder.path)["row_gap"] is None
    write_row_gap(folder.path, RowGap("auc", 0.7, 0.78, 0.08))
    assert status(folder.path)["row_gap"] == {"figure": "auc", "patients": 0.7, "rows": 0.78, "gap": 0.08}


def test_the_exported_model_says_how_much_noise_blurs_its_range(run_folder: Make) -> None:
    folder = run_folder()
    plan = folder.plan()
    found = describe(plan, final_model(folder, plan))
    assert isinstance(found, dict)
    noise = plan.privacy.describe_noise * plan.privacy.describe_clip * 2.0  # four sites
    declared = sum(participant.declared_patients for participant in plan.participants)
    assert found["statistics_doubt"] == pytest.approx(noise / declared)


def test_a_run_on_tables_has_no_invented_patients(run_folder: Make) -> None:
    from server.phantoms import tried

    folder = run_folder()
    assert tried(folder, folder.plan()) is None
    text = write_report(folder.path).read_text()
    assert "hantoms" not in text
    assert "segment MODEL" not in text
