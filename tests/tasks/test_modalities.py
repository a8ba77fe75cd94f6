"""Drop-out takes whole kinds of data from patients, by a draw that is each patient's own."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from tasks.base import Column, Contract, Label
from tasks.errors import ContractError
from tasks.features import Design
from tasks.modalities import dropped
from tasks.models import build_model, initial_parameters, load_parameters, predict

COLUMNS = (
    Column("edss", "numeric", "", low=0, high=10),
    Column("gcipl", "numeric", "", low=30, high=110, modality="ocular"),
    Column("neuritis", "binary", "", modality="ocular"),
    Column("nfl", "numeric", "", low=-6, high=10, modality="samples"),
)
KINDS = {"ocular": [1, 2], "samples": [3]}
SEED = b"round 3 of a run"


def names(n: int) -> list[bytes]:
    return [f"patient {at}".encode() for at in range(n)]


def full(n: int) -> np.ndarray:
    return np.tile([2.0, 70.0, 1.0, 0.5], (n, 1))


def lost(keys: list[bytes], seed: bytes = SEED, rate: float = 0.3) -> np.ndarray:
    return np.isnan(dropped(full(len(keys)), COLUMNS, keys, seed, rate))


def test_the_share_that_loses_a_kind_is_the_rate_and_kinds_are_independent() -> None:
    gone = lost(names(20_000))
    ocular, samples = gone[:, 1], gone[:, 3]
    for rate in (ocular.mean(), samples.mean()):
        assert abs(rate - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 20_000)
    assert abs((ocular & samples).mean() - 0.09) < 4 * np.sqrt(0.09 * 0.91 / 20_000)


def test_a_kind_goes_as_a_whole_and_the_core_stays() -> None:
    gone = lost(names(500))
    assert not gone[:, 0].any()
    for places in KINDS.values():
        assert (gone[:, places] == gone[:, places[:1]]).all()
        assert 0 < gone[:, places[0]].mean() < 1


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=12, unique=True), st.data())
def test_what_a_patient_loses_does_not_depend_on_who_else_is_there(keys: list[bytes], data: st.DataObject) -> None:
    together = lost(keys, rate=0.5)
    some = data.draw(st.permutations(keys))[: data.draw(st.integers(1, len(keys)))]
    assert np.array_equal(lost(some, rate=0.5), together[[keys.index(key) for key in some]])


def test_all_rows_of_a_patient_lose_the_same_and_another_round_takes_others() -> None:
    keys = names(200)
    rows = [key for key in keys for _ in range(3)]
    gone = lost(rows)
    assert np.array_equal(gone, np.repeat(lost(keys), 3, axis=0))
    assert not np.array_equal(lost(keys, b"round 4 of a run"), lost(keys))
    assert np.array_equal(lost(keys), lost(keys))


def test_a_longer_key_is_not_another_kind_of_a_shorter_one() -> None:
    """The draw of (kind, patient) is framed: no patient's name can be read as part of a kind."""
    plain, tricky = lost([b"x"] * 1, rate=0.5), [lost([b"x\x00" + bytes([at])], rate=0.5) for at in range(64)]
    assert any(not np.array_equal(plain, other) for other in tricky)


def test_what_is_not_dropped_is_untouched_and_the_given_values_stay() -> None:
    values = full(100)
    found = dropped(values, COLUMNS, names(100), SEED, 0.5)
    assert np.array_equal(values, full(100))
    assert np.array_equal(found[~np.isnan(found)], values[~np.isnan(found)])
    assert dropped(values, COLUMNS, names(100), SEED, 0.0) is values


@pytest.mark.parametrize(
    ("keys", "seed", "rate", "says"),
    [(3, SEED, 0.5, "3 keys"), (2, SEED, 1.0, "below 1"), (2, SEED, -0.1, "below 1"), (2, SEED, np.nan, "below 1"),
     (2, b"", 0.5, "0 bytes"), (2, b"s" * 65, 0.5, "65 bytes")],
)  # fmt: skip
def test_what_cannot_be_a_draw_is_refused(keys: int, seed: bytes, rate: float, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        dropped(full(2), COLUMNS, names(keys), seed, rate)


# What it is for


def fitted(design: Design, rounds: list[np.ndarray], labels: np.ndarray, buffers: tuple[np.ndarray, np.ndarray]) -> torch.nn.Module:
    """Logistic regression, one step on each round's values."""
    model = build_model("logistic", design, {})
    load_parameters(model, initial_parameters(model, 1))
    optimiser, target = torch.optim.Adam(model.parameters(), lr=0.05), torch.from_numpy(labels).float()
    for values in rounds:
        optimiser.zero_grad()
        logits = model(torch.from_numpy(design.encode(values, *buffers)))
        torch.nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
        optimiser.step()
    return model


def test_a_model_trained_with_it_loses_less_where_a_kind_of_data_is_missing() -> None:
    """EDSS and OCT tell much of the same; who always saw both leans on the OCT, and its absence has never meant anything."""
    stream = np.random.default_rng(7)
    n = 4000
    disease = stream.normal(size=n)
    labels = (stream.random(n) < 1 / (1 + np.exp(-(3 * disease - 1.5)))).astype(float)
    values = np.column_stack([
        np.clip(4 + 1.5 * (disease + 0.7 * stream.normal(size=n)), 0, 10),
        np.clip(75 - 8 * (disease + 0.3 * stream.normal(size=n)), 30, 110),
        np.full(n, 1.0), np.full(n, 0.0),
    ])  # fmt: skip
    design = Design(Contract("t", "1", COLUMNS, Label("y", "")), ("edss", "gcipl"))
    keys, train = names(n), np.arange(n) < n // 2
    buffers = design.statistics_to_buffers(design.describe_vectors(values[train]).sum(axis=0))
    own = [key for key, mine in zip(keys, train, strict=True) if mine]
    rounds = 300
    plain = fitted(design, [values[train]] * rounds, labels[train], buffers)
    taken = [dropped(values[train], COLUMNS, own, b"seed %d" % at, 0.3) for at in range(rounds)]
    robust = fitted(design, taken, labels[train], buffers)
    test = values[~train]
    without = test.copy()
    without[:, 1] = np.nan
    loss = {
        (name, where): log_loss(labels[~train], predict(model, design.encode(given, *buffers)))
        for name, model in (("plain", plain), ("robust", robust))
        for where, given in (("with", test), ("without", without))
    }
    assert loss["plain", "without"] > loss["plain", "with"] + 0.05
    assert loss["robust", "without"] < loss["plain", "without"] - 0.01
    assert loss["robust", "with"] < loss["plain", "with"] + 0.02
