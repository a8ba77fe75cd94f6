"""U-Nets keep a patch's shape, start at the prior, learn, and never let one patient into another's gradient."""

import math

import pytest
import torch
from torch import Tensor, nn

from client.engines import NAMES, PatientBatch, Shape, choose_engine, of_rows
from client.engines.checks import STRANGERS, synthetic
from client.engines.choose import parameters_of
from client.engines.loop import Loop
from tasks.base import Options
from tasks.errors import ContractError
from tasks.imaging.segmentation import dice_bce
from tasks.imaging.unet import GROUPS, MODEL_NAMES, PRIOR, UNet, build
from tasks.models import initial_parameters, load_parameters, n_parameters, refuse_mixing

SMALL = {"widths": "4-8"}


def network(name: str, options: Options = SMALL, channels: int = 2, seed: int = 0) -> UNet:
    """With torch's own start values: those of a plan have a last layer of zeros."""
    torch.manual_seed(seed)
    return build(name, options, channels)


# -- shapes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("size", [(8, 8, 8), (16, 4, 12)])
def test_every_voxel_gets_a_logit_with_and_without_a_batch(name: str, size: tuple[int, ...]) -> None:
    net, patches = network(name), torch.randn(3, 2, *size)
    assert net(patches).shape == (3, *size)
    assert net(patches).dtype == torch.float32
    torch.testing.assert_close(torch.stack([net(each) for each in patches]), net(patches))


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_sizes_that_cannot_be_halved_are_refused_with_the_number_that_they_must_be_multiples_of(levels: int) -> None:
    widths, factor = "-".join(["4"] * levels), 2 ** (levels - 1)
    for axis in range(3):
        size = [2 * factor] * 3
        size[axis] += factor // 2
        with pytest.raises(ContractError, match=rf"{levels - 1} times, so give multiples of {factor} along x, y and z"):
            network("unet3d", {"widths": widths})(torch.zeros(1, 2, *size))
        if axis < 2:
            with pytest.raises(ContractError, match=rf"multiples of {factor} along x and y"):
                network("unet25d", {"widths": widths})(torch.zeros(2, *size))
    assert network("unet3d", {"widths": widths})(torch.zeros(1, 2, factor, factor, 2 * factor)).shape[-1] == 2 * factor


@pytest.mark.parametrize("slices", [1, 2, 5, 7])
def test_the_slices_of_25_dimensions_may_be_of_any_number(slices: int) -> None:
    assert network("unet25d")(torch.zeros(2, 8, 4, slices)).shape == (8, 4, slices)


def test_another_number_of_sequences_or_axes_is_refused() -> None:
    for shape in ((1, 8, 8, 8), (2, 3, 8, 8, 8), (8, 8, 8), (1, 1, 2, 8, 8, 8)):
        with pytest.raises(ContractError, match=r"takes \(\[batch,\] 2, x, y, z\)"):
            network("unet3d")(torch.zeros(shape))


# -- 2.5 dimensions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slices", "reach"), [(1, 0), (3, 1), (5, 2)])
def test_a_slice_sees_its_neighbours_and_no_slice_further_away(slices: int, reach: int) -> None:
    net, patch = network("unet25d", {**SMALL, "slices": slices}), torch.randn(2, 8, 8, 9)
    changed = patch.clone()
    changed[..., 4] += 1.0
    moved = (net(changed) != net(patch)).any(dim=0).any(dim=0)
    assert moved.nonzero().flatten().tolist() == list(range(4 - reach, 5 + reach))


def test_the_outermost_slice_is_its_own_neighbour() -> None:
    net, patch = network("unet25d"), torch.randn(2, 8, 8, 4)
    longer = torch.cat([patch[..., :1], patch, patch[..., -1:]], dim=-1)
    torch.testing.assert_close(net(longer)[..., 1:-1], net(patch))


def test_25_dimensions_are_a_2d_network_on_neighbours_as_channels() -> None:
    net, flat, patch = network("unet25d"), network("unet25d", {**SMALL, "slices": 1}, channels=6), torch.randn(2, 8, 8, 5)
    flat.load_state_dict(net.state_dict())
    stacked = torch.cat([patch[..., :-2], patch[..., 1:-1], patch[..., 2:]])  # channels of the slice before, of its own, after
    torch.testing.assert_close(flat(stacked), net(patch)[..., 1:-1])


# -- parameters ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_same_seed_gives_the_same_parameters_and_every_voxel_the_prior(name: str) -> None:
    net, other = build(name, {}, 2), build(name, {}, 2)
    assert (initial_parameters(net, 3) == initial_parameters(other, 3)).all()
    assert (initial_parameters(net, 3) != initial_parameters(net, 4)).any()
    load_parameters(net, initial_parameters(net, 3))
    logits = net(torch.randn(2, 8, 8, 8))
    assert (logits == PRIOR).all()
    assert 0.01 < 1 / (1 + math.exp(-PRIOR)) < 0.03


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_at_the_plans_start_values_the_first_step_moves_and_the_second_reaches_every_layer(name: str) -> None:
    net = build(name, SMALL, 2)
    load_parameters(net, initial_parameters(net, 0))
    torch.manual_seed(0)
    patches, labels = torch.randn(2, 2, 8, 8, 8), (torch.rand(2, 8, 8, 8) < 0.1).float()
    step = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        step.zero_grad()
        dice_bce(net(patches), labels).sum().backward()
        step.step()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in net.parameters())


def test_networks_are_small() -> None:
    """At most 2 million parameters, the budget of segmentation; noise for privacy grows with the root of their number."""
    kernels = 2 * 8 + 8 * 8 + 8 * 16 + 16 * 16 + 16 * 32 + 32 * 32 + 32 * 16 + 16 * 16 + 16 * 8 + 8 * 8
    others = (2 * 2 * (8 + 16 + 32 + 16 + 8)) + (32 * 16 + 16 + 16 * 8 + 8) + (8 + 1)  # norms, what rises, the last layer
    assert n_parameters(build("unet3d", {}, 2)) == 27 * kernels + others == 80_913
    assert n_parameters(build("unet25d", {}, 2)) == 9 * (kernels + 4 * 8) + others == 27_921
    assert n_parameters(build("unet3d", {"widths": "16-32-64-128"}, 2)) < 2_000_000


# -- options ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("unet2d", {}, "known: unet3d, unet25d"),
        ("unet3d", {"width": "8-16"}, "no option 'width'; known: widths"),
        ("unet3d", {"slices": 3}, "no option 'slices'"),
        ("unet25d", {"slices": 4}, "slices is 4: one of 1, 3, 5, 7"),
        ("unet25d", {"slices": "3"}, "slices is '3'"),
        ("unet3d", {"widths": "8,16"}, "joined by -"),
        ("unet3d", {"widths": "8--16"}, "joined by -"),
        ("unet3d", {"widths": ""}, "joined by -"),
        ("unet3d", {"widths": "8-²"}, "joined by -"),
        ("unet3d", {"widths": 8}, "2 to 5 levels"),
        ("unet3d", {"widths": "4-4-4-4-4-4"}, "2 to 5 levels"),
        ("unet3d", {"widths": "8-18"}, f"a multiple of {GROUPS}"),
        ("unet3d", {"widths": "0-8"}, f"a multiple of {GROUPS}"),
        ("unet3d", {"widths": "8-256"}, "up to 128"),
    ],
)
def test_options_that_do_not_fit_are_refused(name: str, options: Options, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        build(name, options, 2)


def test_dimensions_and_slices_that_do_not_fit_are_refused() -> None:
    for dims, slices in ((1, 1), (3, 3), (2, 2)):
        with pytest.raises(ContractError, match=f"in {dims} dimensions with {slices} slices"):
            UNet(1, dims=dims, slices=slices)
    with pytest.raises(ContractError, match="at least 1"):
        UNet(0)


# -- patients stay apart ------------------------------------------------------------------------------------------------------


def patients(count: int, size: int = 8) -> tuple[Shape, PatientBatch]:
    shape = Shape(2, (2, size, size, size), (size, size, size))
    return shape, synthetic(shape, count)


@pytest.mark.parametrize(("name", "engine"), [("unet3d", "loop"), ("unet3d", "bookkeeping"), ("unet25d", "loop")])
def test_engines_take_the_networks(name: str, engine: str) -> None:
    """Nobody's loss moves another's, and bookkeeping agrees with autograd for each patient, in the same bits in every slot."""
    net = network(name)
    refuse_mixing(net)
    shape, _ = patients(1)
    assert choose_engine(net, dice_bce, shape, patients=32, name=engine).name == engine


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_an_engine_is_found_without_naming_one(name: str) -> None:
    shape, _ = patients(1)
    assert choose_engine(network(name), dice_bce, shape, patients=32).name in NAMES


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_patients_gradient_is_the_same_bits_whoever_else_is_there(name: str, stranger: str) -> None:
    net = network(name)
    shape, batch = patients(3)
    loop, parameters = Loop(net, dice_bce, shape), parameters_of(net)
    inputs = batch.inputs.clone()
    inputs[1] = STRANGERS[stranger](inputs[1].flip(0) + 1.0)
    other = PatientBatch(inputs, 1 - batch.labels, batch.weights)
    other.labels[[0, 2]] = batch.labels[[0, 2]]
    for found, expected in zip(loop.raw(parameters, other), loop.raw(parameters, batch), strict=True):
        assert torch.equal(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_loops_gradient_is_that_of_autograd(name: str) -> None:
    """Cut convolutions included: patches of 16 voxels are cut in two."""
    net = network(name)
    torch.manual_seed(1)
    patch, label = torch.randn(1, 2, 8, 8, 16), (torch.rand(1, 8, 8, 16) < 0.2).float()
    expected = torch.autograd.grad(dice_bce(net(patch), label).sum(), list(net.parameters()))
    loop = Loop(net, dice_bce, Shape(1, (2, 8, 8, 16), (8, 8, 16)))
    for found, wanted in zip(loop.raw(parameters_of(net), of_rows(patch, label)), expected, strict=True):
        torch.testing.assert_close(found.flatten(), wanted.flatten(), rtol=1e-4, atol=1e-6)


# -- learning -----------------------------------------------------------------------------------------------------------------


def blobs() -> tuple[Tensor, Tensor]:
    """Two patches of noise with two bright balls on the first sequence; a bright slab without its mark on the second is none."""
    torch.manual_seed(2)
    place = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij"))
    balls = [[(5, 5, 6), (11, 10, 9)], [(8, 4, 10), (5, 12, 5)]]
    labels = torch.stack(
        [torch.stack([(place - torch.tensor(at).view(3, 1, 1, 1)).norm(dim=0) < 2.6 for at in pair]).any(dim=0) for pair in balls]
    ).float()
    slab = torch.zeros(16, 16, 16)
    slab[:, :, 13:] = 1.0
    patches = 0.5 * torch.randn(2, 2, 16, 16, 16)
    patches[:, 0] += 3 * (labels + slab)
    patches[:, 1] += 2 * slab
    return patches, labels


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_network_learns_two_patches_by_heart(name: str) -> None:
    patches, labels = blobs()
    net: nn.Module = build(name, {}, 2)
    load_parameters(net, initial_parameters(net, 5))
    adam, losses = torch.optim.Adam(net.parameters(), lr=0.01), []
    for _ in range(50):
        adam.zero_grad()
        loss = dice_bce(net(patches), labels).mean()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    found = net(patches) > 0
    dice = 2 * (found * labels).sum() / (found.sum() + labels.sum())
    assert losses[-1] < 0.2 * losses[0]
    assert dice > 0.9
