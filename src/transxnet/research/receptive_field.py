"""The effective receptive field (ERF): which pixels the centre of a stage's map listens to.

Figures 1 and 6 of the paper; Luo et al. 2016 (arXiv:1701.04128), measured in the way of Ding et
al. 2022 (RepLKNet, arXiv:2203.06717): for an image, the gradient of the map's centre, summed over
the channels, with respect to the input; summed over the input's channels; averaged over images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Rule = Literal["relu", "abs"]
"""What counts: ``relu``, the positive outputs and the positive gradients, as RepLKNet has it; ``abs``, all
outputs and the gradients' absolute values."""

SHARES = (0.2, 0.3, 0.5, 0.99)
"""The shares of the contribution for which RepLKNet reports a square's side."""


def contribution(forward: Callable[[Tensor], Sequence[Tensor]], images: Tensor, rule: Rule = "relu") -> list[Tensor]:
    """What each pixel contributes to the centre of some maps, summed over images.

    The centre of a map of H x W is at (H // 2, W // 2), counted from 0. The input is the normalised
    image, as the network gets it.

    Args:
        forward: From images (B, C, H, W) to maps (B, C', H', W').
        images: The images; those of a batch must not influence each other (evaluation mode).
        rule: What counts.

    Returns:
        For each map (H, W), float64, on the CPU.
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        maps = forward(images)
        centres = [stage[:, :, stage.shape[2] // 2, stage.shape[3] // 2] for stage in maps]
        totals = [(centre.relu() if rule == "relu" else centre).sum() for centre in centres]
    sums = []
    for place, total in enumerate(totals):
        (gradient,) = torch.autograd.grad(total, images, retain_graph=place < len(totals) - 1)
        counted = gradient.relu() if rule == "relu" else gradient.abs()
        sums.append(counted.sum((0, 1), dtype=torch.float64).cpu())
    return sums


def middle(field: npt.NDArray[np.float64]) -> tuple[int, int]:
    """The pixel (row, column) with half of the contribution on either side.

    This is where the centre of the map looks at. It is not always the centre of the image: the
    convolutions of stride 2 put place 3 of 7 at pixel 96 of 224.
    """
    row, column = (
        int(np.searchsorted(sums, sums[-1] / 2, side="right"))
        for sums in (field.sum(1).cumsum(), field.sum(0).cumsum())
    )
    return min(row, field.shape[0] - 1), min(column, field.shape[1] - 1)


def square_side(field: npt.NDArray[np.float64], share: float) -> int:
    """The side, in pixels, of the smallest square around the middle that holds a share of the contribution.

    Sides are 1, 3, 5, ... pixels, and at last the image's. RepLKNet's squares are around the
    image's centre, which measures an offset too where the middle is elsewhere.

    Args:
        field: Contributions (H, W), not negative.
        share: Between 0 and 1.
    """
    longest = max(field.shape)
    wanted = share * field.sum() * (1 - 1e-12)  # the order of a sum decides nothing
    sides = (side for side in range(1, longest, 2) if field[square(field, side)].sum() >= wanted)
    return next(sides, longest)


def square(field: npt.NDArray[np.float64], side: int) -> tuple[slice, slice]:
    """The rows and columns of a square around the middle, moved inside the image where it would stick out."""
    rows, columns = (
        _inside(place - side // 2, side, length) for place, length in zip(middle(field), field.shape, strict=True)
    )
    return rows, columns


def _inside(start: int, side: int, length: int) -> slice:
    start = max(0, min(start, length - side))
    return slice(start, min(start + side, length))


def square_area(field: npt.NDArray[np.float64], side: int) -> float:
    """The share of the image's area that a square of this side covers."""
    return field[square(field, side)].size / field.size
