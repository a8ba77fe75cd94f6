"""Recurrent and attention layers are those that everybody knows, and a record depends on itself alone."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from tasks.errors import ContractError
from tasks.layers import PatientGRU, Recurrence, SelfAttention, TransformerBlock


def gru_pair() -> tuple[nn.GRU, PatientGRU]:
    torch.manual_seed(0)
    known, own = nn.GRU(3, 5, batch_first=True), PatientGRU(3, 5)
    with torch.no_grad():
        own.gates.weight.copy_(known.weight_ih_l0)
        own.gates.bias.copy_(known.bias_ih_l0)
        own.gates.bias[:10] += known.bias_hh_l0[:10]
        own.recurrence.weight.copy_(known.weight_hh_l0)
        own.recurrence.bias.copy_(known.bias_hh_l0[10:])
    return known, own


def test_the_gru_is_torchs_in_states_and_gradients() -> None:
    known, own = gru_pair()
    visits, weights = torch.randn(4, 7, 3), torch.randn(4, 7, 5)
    states = own(visits)
    torch.testing.assert_close(states, known(visits)[0])
    (known(visits)[0] * weights).sum().backward()
    (states * weights).sum().backward()
    torch.testing.assert_close(own.gates.weight.grad, known.weight_ih_l0.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.gates.bias.grad, known.bias_ih_l0.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.recurrence.weight.grad, known.weight_hh_l0.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.recurrence.bias.grad, known.bias_hh_l0.grad[10:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_every_gradient_of_the_recurrence_is_that_of_finite_differences(masked: bool) -> None:
    torch.manual_seed(1)
    layer = Recurrence(4).double()
    present = (torch.rand(3, 5) < 0.6).double() if masked else None
    gates, offset = (torch.randn(3, 5, 12, dtype=torch.double, requires_grad=True) for _ in range(2))

    def states(g: torch.Tensor, o: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = functional_call(layer, {"weight": w, "bias": b}, (g, present, o))
        return found

    assert torch.autograd.gradcheck(states, (gates, offset, layer.weight, layer.bias))


def test_padding_after_the_last_visit_changes_no_state() -> None:
    _, own = gru_pair()
    visits, present = torch.randn(2, 6, 3), torch.ones(2, 6)
    present[0, 4:] = 0
    states = own(visits, present)
    torch.testing.assert_close(states[0, 5], own(visits[:1, :4])[0, 3])
    torch.testing.assert_close(states[1], own(visits[1:])[0])


def test_attention_is_torchs() -> None:
    torch.manual_seed(2)
    known, own = nn.MultiheadAttention(8, 2, batch_first=True), SelfAttention(8, 2)
    with torch.no_grad():
        own.queries_keys_values.weight.copy_(known.in_proj_weight)
        own.queries_keys_values.bias.copy_(known.in_proj_bias)
        own.output.load_state_dict(known.out_proj.state_dict())
    visits, present = torch.randn(3, 5, 8), torch.ones(3, 5)
    torch.testing.assert_close(own(visits), known(visits, visits, visits)[0])
    present[:, 3:] = 0
    expected = known(visits, visits, visits, key_padding_mask=present == 0)[0]
    torch.testing.assert_close(own(visits, present)[:, :3], expected[:, :3])


def test_a_block_without_any_visit_is_finite_and_padding_reaches_nobody() -> None:
    torch.manual_seed(3)
    block, visits = TransformerBlock(8, 2, 16), torch.randn(2, 4, 8)
    assert torch.isfinite(block(visits, torch.zeros(2, 4))).all()
    present = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2)
    changed = visits.clone()
    changed[:, 2:] = 100.0
    torch.testing.assert_close(block(visits, present)[:, :2], block(changed, present)[:, :2])


@pytest.mark.parametrize("layer", [PatientGRU(8, 4), TransformerBlock(8, 2, 16)])
def test_a_record_depends_on_itself_alone(layer: nn.Module) -> None:
    visits = torch.randn(5, 4, 8)
    torch.testing.assert_close(torch.cat([layer(each.unsqueeze(0)) for each in visits]), layer(visits))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ContractError, match="multiple of the heads"):
        SelfAttention(10, 3)
