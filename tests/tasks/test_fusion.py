"""Late fusion: a kind of data that is missing says nothing, and how much another counts may depend on it."""

import numpy as np
import pytest
import torch

from client.engines import Shape, choose_engine
from tasks.cdp_2y.task import TASK
from tasks.episodes.extras import expanded
from tasks.errors import ContractError
from tasks.features import Design
from tasks.fusion import fusion_layout
from tasks.models import build_model, initial_parameters, load_parameters, trunk

DESIGN = Design(TASK.contract, expanded(("edss_last", "age_years", "oct", "fluids", "genetics")))
NAMES = list(DESIGN.input_names)


def model_that_is_not_zero() -> torch.nn.Module:
    model = build_model("gated", DESIGN, {})
    vector = initial_parameters(model, 3)
    load_parameters(model, vector + np.random.default_rng(1).normal(0, 0.3, len(vector)).astype(np.float32))
    return model


def patient(*, oct_there: bool, fluids_there: bool) -> torch.Tensor:
    values = np.full((1, len(TASK.contract.columns)), np.nan)
    given = {"edss_last": 3.0, "age_years": 40.0}
    given |= {"gcipl_um_last": 60.0} if oct_there else {}
    given |= {"nfl_z_last": 2.0} if fluids_there else {}
    for name, value in given.items():
        values[0, TASK.contract.column_names.index(name)] = value
    return torch.from_numpy(DESIGN.encode(values, *DESIGN.neutral_buffers()))


def test_kinds_are_those_of_the_columns_and_the_clinical_one_is_the_core() -> None:
    core, kinds = fusion_layout(DESIGN)
    assert [NAMES[place] for place in core] == ["age_years", "age_years missing", "edss_last", "edss_last missing"]
    assert [NAMES[kind.inputs[0]] for kind in kinds] == ["hla_drb1_1501", "prnfl_um_last", "nfl_z_last"]
    assert [len(kind.masks) for kind in kinds] == [0, 4, 2]  # nothing says that genes are missing


def test_features_of_a_kind_that_is_missing_are_nothing() -> None:
    hidden = model_that_is_not_zero().hidden
    features = hidden(patient(oct_there=False, fluids_there=True))
    assert not features[0, 8:12].any()  # 4 clinical, 4 of genes, 4 of the eyes, 4 of blood
    assert features[0, 12:].all()
    assert hidden(patient(oct_there=True, fluids_there=True))[0, 8:12].all()


def test_what_blood_counts_depends_on_whether_there_is_an_oct() -> None:
    hidden = model_that_is_not_zero().hidden
    with_oct, without = (hidden(patient(oct_there=there, fluids_there=True))[0, 12:] for there in (True, False))
    assert not torch.allclose(with_oct, without, atol=1e-4)
    ratio = with_oct / without
    torch.testing.assert_close(ratio, ratio[:1].expand(4))  # one gate for the whole kind


def test_a_design_of_clinical_columns_alone_is_refused() -> None:
    with pytest.raises(ContractError, match="another kind of data than clinical"):
        trunk("gated", Design(TASK.contract, ("edss_last",)), {})
    with pytest.raises(ContractError, match="1 to 32"):
        trunk("gated", DESIGN, {"width": 33})


def test_it_is_the_same_alone_and_in_a_batch_and_a_fast_engine_serves_it() -> None:
    model, inputs = model_that_is_not_zero(), torch.randn(5, len(NAMES), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(torch.stack([model(row) for row in inputs]), model(inputs))
    assert choose_engine(model, TASK.loss, Shape(TASK.records, (len(NAMES),)), name="bookkeeping").name == "bookkeeping"
