"""The effective receptive field (ERF): the influence of each pixel on the centre of a stage's map.

Figures 1 and 6 of the paper; Luo et al. 2016 (arXiv:1701.04128), measured as in Ding et al. 2022
(RepLKNet, arXiv:2203.06717): the gradient of the map's centre, summed over the channels, with respect
to the input image; summed over the input's channels; averaged over images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Rule = Literal["relu", "abs"]
"""Which values count: ``relu``, positive outputs and positive gradients, as in RepLKNet; ``abs``, all outputs
and absolute values of gradients."""

SHARES = (0.2, 0.3, 0.5, 0.99)
"""The shares of the contribution for which RepLKNet reports a square's side."""


def contribution(forward: Callable[[Tensor], Sequence[Tensor]], images: Tensor, rule: Rule = "relu") -> list[Tensor]:
    """Contribution of each pixel to the centre of some maps, summed over images.

    The centre of a map of H x W is at (H // 2, W // 2), counted from 0.

    Args:
        forward: Maps images (B, C, H, W) to maps (B, C', H', W').
        images: The normalised images, which must not influence each other (evaluation mode).
        rule: Which values count.

    Returns:
        For each map (H, W), float64, on the CPU.
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        maps = forward(images)
        centres = [stage[:, :, stage.shape[2] // 2, stage.shape[3] // 2] for stage in maps]
        totals = [(centre.relu() if rule == "relu" else centre).sum() for centre in centres]
    sums = []
    for index, total in enumerate(totals):
        (gradient,) = torch.autograd.grad(total, images, retain_graph=index < len(totals) - 1)
        counted = gradient.relu() if rule == "relu" else gradient.abs()
        sums.append(counted.sum((0, 1), dtype=torch.float64).cpu())
    return sums


def middle(field: npt.NDArray[np.float64]) -> tuple[int, int]:
    """The pixel (row, column) with half of the contribution on either side.

    It is not always the centre of the image: convolutions of stride 2 put index 3 of 7 at pixel 96 of 224.
    """
    row, column = (
        int(np.searchsorted(sums, sums[-1] / 2, side="right"))
        for sums in (field.sum(1).cumsum(), field.sum(0).cumsum())
    )
    return min(row, field.shape[0] - 1), min(column, field.shape[1] - 1)


def square_side(field: npt.NDArray[np.float64], share: float) -> int:
    """Side in pixels of the smallest square around the middle that contains a share of the contribution.

    Sides are 1, 3, 5, ... pixels, and finally the image's. RepLKNet centres squares on the image, which
    also measures the offset of the middle.

    Args:
        field: Contributions (H, W), not negative.
        share: Between 0 and 1.
    """
    longest = max(field.shape)
    minimum = share * field.sum() * (1 - 1e-12)  # tolerates rounding of the sums
    sides = (side for side in range(1, longest, 2) if field[square(field, side)].sum() >= minimum)
    return next(sides, longest)


def square(field: npt.NDArray[np.float64], side: int) -> tuple[slice, slice]:
    """The rows and columns of a square around the middle, moved inside the image where it would stick out."""
    rows, columns = (
        _inside(centre - side // 2, side, length) for centre, length in zip(middle(field), field.shape, strict=True)
    )
    return rows, columns


def _inside(start: int, side: int, length: int) -> slice:
    start = max(0, min(start, length - side))
    return slice(start, min(start + side, length))


def square_area(field: npt.NDArray[np.float64], side: int) -> float:
    """The share of the image's area that a square of this side covers."""
    return field[square(field, side)].size / field.size
