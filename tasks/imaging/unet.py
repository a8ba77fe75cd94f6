"""U-Nets from a patch of MRI to a logit for each voxel, small enough for a hospital's processor, whose layers never mix patients.

Ronneberger et al. 2015 (arXiv 1505.04597), in three dimensions (Çiçek et al. 2016, arXiv 1606.06650) or slice by slice. Every layer
is one of which `client.engines` knows each patient's gradient; statistics are those of a record's own groups of channels (Wu and He
2018, arXiv 1803.08494), never of a batch.

`unet25d` takes thick slices as they are: each slice along the last axis is an image whose channels are its own sequences and those
of its neighbours (2.5 dimensions), and nothing is pooled across slices. It takes and gives the same shapes as `unet3d`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.errors import ContractError

if TYPE_CHECKING:
    from tasks.base import Options

OPTIONS: Final = {"unet3d": ("widths",), "unet25d": ("widths", "slices")}
MODEL_NAMES: Final = tuple(OPTIONS)
GROUPS: Final = 4  # of channels in each normalisation
LEVELS: Final = (2, 5)
WIDEST: Final = 128
SLICES: Final = (1, 3, 5, 7)
PRIOR: Final = -4.0
"""Added to every logit: log-odds of a voxel to be lesion before anything is learnt, 1.8 %. It is a constant and no start value of
the bias, because `tasks.models.initial_parameters` starts every bias at 0."""


class UNet(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """Patches (batch, channels, x, y, z) or (channels, x, y, z), float32, to logits (batch, x, y, z) or (x, y, z).

    `widths`: channels of each level, finest first, each a multiple of 4; every level below the first has half the voxels along an
    axis, so that x, y and (3D) z must be multiples of `factor`. `dims` 3, or 2: slice by slice, each with `slices` - 1 neighbours;
    beyond the patch the outermost slice is repeated.
    """

    def __init__(self, channels: int, widths: Sequence[int] = (8, 16, 32), *, dims: int = 3, slices: int = 1) -> None:
        super().__init__()
        _check(channels, widths, dims, slices)
        self.channels, self.dims, self.slices = channels, dims, slices
        self.factor = 2 ** (len(widths) - 1)
        pairs = list(pairwise((channels * slices, *widths)))
        self.down = nn.ModuleList([_level(dims, before, width) for before, width in pairs])
        self.rise = nn.ModuleList([_convolution(dims)(width, before, 1) for before, width in reversed(pairs[1:])])
        self.up = nn.ModuleList([_level(dims, 2 * width, width) for width in reversed(widths[:-1])])
        self.output = _convolution(dims)(widths[0], 1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits. `ContractError` for a shape that the network cannot take."""
        records = inputs if inputs.dim() == 5 else inputs.unsqueeze(0)
        self._check_shape(inputs)
        logits = self._in_space(records) if self.dims == 3 else self._by_slice(records)
        return logits if inputs.dim() == 5 else logits.squeeze(0)

    def _by_slice(self, records: Tensor) -> Tensor:
        batch, _, x, y, z = records.shape
        reach = self.slices // 2
        near = torch.arange(z, device=records.device).unsqueeze(1) + torch.arange(-reach, reach + 1, device=records.device)
        images = records.permute(0, 4, 1, 2, 3)[:, near.clamp(0, z - 1)]  # (batch, z, slices, channels, x, y)
        logits = self._in_space(images.reshape(batch * z, -1, x, y))
        return logits.view(batch, z, x, y).permute(0, 2, 3, 1)

    def _in_space(self, features: Tensor) -> Tensor:
        pool = functional.max_pool3d if self.dims == 3 else functional.max_pool2d
        kept = []
        for number, level in enumerate(self.down):
            features = level(pool(features, 2) if number else features)
            kept.append(features)
        kept.pop()
        for rise, level in zip(self.rise, self.up, strict=True):
            risen = functional.interpolate(rise(features), scale_factor=2, mode="nearest")
            features = level(torch.cat([kept.pop(), risen], dim=1))
        logits: Tensor = self.output(features).squeeze(1) + PRIOR
        return logits

    def _check_shape(self, inputs: Tensor) -> None:
        if inputs.dim() not in {4, 5} or inputs.shape[-4] != self.channels:
            raise ContractError(f"a patch of shape {tuple(inputs.shape)}: the network takes ([batch,] {self.channels}, x, y, z)")
        halved = inputs.shape[-3:] if self.dims == 3 else inputs.shape[-3:-1]
        if any(size % self.factor for size in halved):
            axes = "x, y and z" if self.dims == 3 else "x and y"
            raise ContractError(
                f"a patch of {' x '.join(str(size) for size in inputs.shape[-3:])} voxels: the network halves it "
                f"{len(self.down) - 1} times, so give multiples of {self.factor} along {axes}"
            )


def build(name: str, options: Options, channels: int) -> UNet:
    """The network called `name` for `channels` sequences, its parameters to be set by the caller. Options:

        unet3d     widths ("8-16-32")
        unet25d    widths, slices (3): how many neighbouring slices, with its own, a slice sees

    `ContractError` for an unknown name or option, or a value out of range.
    """
    known = OPTIONS.get(name)
    if known is None:
        raise ContractError(f"unknown model {name!r}; known: {', '.join(MODEL_NAMES)}")
    if strange := sorted(set(options) - set(known)):
        raise ContractError(f"model {name} has no option {strange[0]!r}; known: {', '.join(known)}")
    widths = _widths(name, options.get("widths", "8-16-32"))
    if name == "unet3d":
        return UNet(channels, widths)
    slices = options.get("slices", 3)
    if not isinstance(slices, int) or slices not in SLICES:
        raise ContractError(f"{name} option slices is {slices!r}: one of {', '.join(str(each) for each in SLICES)}")
    return UNet(channels, widths, dims=2, slices=slices)


def _widths(name: str, text: str | int | float) -> tuple[int, ...]:
    parts = str(text).split("-")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise ContractError(f"{name} option widths is {text!r}: whole numbers joined by -, such as 8-16-32")
    return tuple(int(part) for part in parts)


def _check(channels: int, widths: Sequence[int], dims: int, slices: int) -> None:
    if channels < 1:
        raise ContractError(f"a network of {channels} sequences: at least 1")
    if not LEVELS[0] <= len(widths) <= LEVELS[1] or not all(0 < each <= WIDEST and each % GROUPS == 0 for each in widths):
        raise ContractError(
            f"widths {'-'.join(str(each) for each in widths)}: {LEVELS[0]} to {LEVELS[1]} levels, each a multiple of {GROUPS} "
            f"up to {WIDEST}, such as 8-16-32"
        )
    if dims not in {2, 3} or slices not in SLICES or (dims == 3 and slices != 1):
        raise ContractError(f"a network in {dims} dimensions with {slices} slices: 3 with 1, or 2 with one of {list(SLICES)}")


def _convolution(dims: int) -> type[nn.Module]:
    found: type[nn.Module] = nn.Conv3d if dims == 3 else nn.Conv2d
    return found


def _level(dims: int, before: int, width: int) -> nn.Sequential:
    """Two convolutions, each normalised: a bias before that would be no use."""
    convolution = _convolution(dims)
    return nn.Sequential(
        convolution(before, width, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, width),
        nn.LeakyReLU(0.01),
        convolution(width, width, 3, padding=1, bias=False),
        nn.GroupNorm(GROUPS, width),
        nn.LeakyReLU(0.01),
    )
