"""Anchors, box coding and matching where the released detectors differ from torchvision's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

SIZE_DIVISOR = 32
"""Images are padded to a multiple of this."""


class StrideAnchors(AnchorGenerator):
    """Anchors of unrounded sizes, whose distance is the level's nominal stride.

    torchvision divides the padded image's size by the map's, which gives other distances where
    the one is not a multiple of the other, and rounds the anchors' corners.

    Args:
        strides: Input pixels for each step of each level.
        scales: Sizes of the anchors in strides, the same for all levels.
        ratios: Heights over widths.
    """

    def __init__(
        self, strides: Sequence[int], scales: Sequence[float], ratios: Sequence[float] = (0.5, 1.0, 2.0)
    ) -> None:
        self.strides = tuple(strides)
        super().__init__(
            tuple(tuple(stride * scale for scale in scales) for stride in strides), (tuple(ratios),) * len(strides)
        )

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (torchvision's signature)
    ) -> Tensor:
        """The anchors (ratios x scales, 4) of a cell, around the origin."""
        sizes = torch.as_tensor(scales, dtype=dtype, device=device)
        heights = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()[:, None]
        half_w, half_h = (sizes / heights).flatten() / 2, (sizes * heights).flatten() / 2
        return torch.stack([-half_w, -half_h, half_w, half_h], dim=1)

    def levels(self, feature_maps: Sequence[Tensor]) -> list[Tensor]:
        """The anchors (H W A, 4) of each level, row by row."""
        # Half precision cannot distinguish the pixels of a large image.
        dtype = torch.promote_types(feature_maps[0].dtype, torch.float32)
        self.set_cell_anchors(dtype, feature_maps[0].device)
        grids = [list(feature_map.shape[-2:]) for feature_map in feature_maps]
        strides = [[stride] * 2 for stride in self.strides]  # as tensors they would wait for a GPU
        return cast(list[Tensor], self.grid_anchors(grids, strides))

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of all levels, for each image."""
        anchors = torch.cat(self.levels(feature_maps))
        return [anchors] * len(image_list.image_sizes)

    def inside(self, image_size: tuple[int, int], feature_maps: Sequence[Tensor]) -> Tensor:
        """Which anchors take part in an image's training: those of cells in its own padded part of the batch."""
        flags = []
        padded = [math.ceil(side / SIZE_DIVISOR) * SIZE_DIVISOR for side in image_size]
        for feature_map, stride, count in zip(feature_maps, self.strides, self.num_anchors_per_location(), strict=True):
            height, width = feature_map.shape[-2:]
            rows = torch.arange(height, device=feature_map.device) < math.ceil(padded[0] / stride)
            columns = torch.arange(width, device=feature_map.device) < math.ceil(padded[1] / stride)
            cells = (rows[:, None] & columns[None, :]).flatten()
            flags.append(cells.repeat_interleave(count))
        return torch.cat(flags)


class ClampedBoxCoder(BoxCoder):
    """torchvision's, with changes of size bounded below as well as above: by a factor of 62.5."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Boxes (N, 4) of codes (N, 4) relative to ``boxes``."""
        codes = rel_codes.to(torch.promote_types(rel_codes.dtype, boxes.dtype), copy=True)
        _, _, width, height = self.weights
        codes[:, 2::4] = codes[:, 2::4].clamp(min=-self.bbox_xform_clip * width)
        codes[:, 3::4] = codes[:, 3::4].clamp(min=-self.bbox_xform_clip * height)
        return cast(Tensor, super().decode_single(codes, boxes))


class BestMatcher(Matcher):
    """Also matches each ground truth with its best boxes, if their overlap is at least ``minimum``.

    They are taken from other ground truths, as in the released recipe; of two with the same best
    box, the later one gets it.

    Args:
        high: Overlap (IoU) from which a box is positive.
        low: Overlap below which it is negative; between the two it is ignored.
        minimum: Minimum overlap of a best box.
    """

    def __init__(self, high: float, low: float, minimum: float) -> None:
        super().__init__(high, low, allow_low_quality_matches=True)
        self.minimum = minimum

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        best = match_quality_matrix.max(dim=1, keepdim=True).values
        counted = (best >= self.minimum) & (best > 0)
        order = torch.arange(len(best), dtype=torch.int32, device=best.device)[:, None]
        latest = torch.where((match_quality_matrix == best) & counted, order, -1).amax(dim=0)
        matches.copy_(torch.where(latest >= 0, latest, matches))


def empty_maps(batch: ImageList, strides: Sequence[int]) -> list[Tensor]:
    """Maps without channels of the levels' sizes, for :meth:`StrideAnchors.levels`."""
    height, width = batch.tensors.shape[2:]
    return [torch.empty(0, 0, -(-height // stride), -(-width // stride)) for stride in strides]


def at_least_float32(x: Tensor) -> Tensor:
    """A tensor of 16 bits in float32, others as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
