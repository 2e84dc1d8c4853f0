"""Semantic FPN: a class for every pixel, from a feature pyramid (table IV)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transxnet.dense.head import Described
from transxnet.dense.pyramid import PyramidBackbone
from transxnet.layers.norm import BatchNorm2d

resize = partial(F.interpolate, mode="bilinear", align_corners=False)

_AT_ONCE = 2**24  # scores that are resized at a time

IGNORED = 255
"""The label of pixels that belong to no class."""


def _level(in_channels: int, channels: int, doublings: int) -> nn.Sequential:
    """Convolutions that bring a level to the finest one's resolution, each but the finest's followed by doubling."""
    layers: list[nn.Module] = []
    for index in range(max(doublings, 1)):
        layers.append(
            nn.Sequential(
                nn.Conv2d(in_channels if index == 0 else channels, channels, 3, padding=1, bias=False),
                BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
        )
        if doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*layers)


class SemanticHead(nn.Module):
    """Sums all levels at the finest one's resolution, and scores the classes there.

    Args:
        in_channels: Channels of the pyramid.
        strides: Of the pyramid's levels, rising by doubling.
        num_classes: Classes.
        channels: Channels inside.
        dropout: Of whole channels before the scores, in training.
    """

    def __init__(
        self, in_channels: int, strides: Sequence[int], num_classes: int, channels: int = 128, dropout: float = 0.1
    ) -> None:
        super().__init__()
        doublings = [(stride // strides[0]).bit_length() - 1 for stride in strides]
        self.levels = nn.ModuleList(_level(in_channels, channels, count) for count in doublings)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.constant_(self.classifier.bias, 0)  # type: ignore[arg-type]

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """Shapes: maps (B, C, H / stride, W / stride) to (B, num_classes, H / 4, W / 4)."""
        finest, *others = (level(x) for level, x in zip(self.levels, pyramid, strict=True))
        for other in others:  # odd sizes double to one more than the finest has
            finest = finest + resize(other, size=finest.shape[2:])
        return self.classifier(self.dropout(finest))  # type: ignore[no-any-return]


class SemanticFPN(Described, nn.Module):
    """A segmenter.

    Args:
        backbone: Backbone and pyramid.
        num_classes: Classes.
    """

    def __init__(self, backbone: PyramidBackbone, num_classes: int = 150) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.head = SemanticHead(backbone.out_channels, backbone.strides, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of every pixel. Shapes: (B, 3, H, W) to (B, num_classes, H, W)."""
        return resize(self.head(list(self.backbone(x).values())), size=x.shape[2:])


def segmentation_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy, summed over the labelled pixels and divided by all, as in the released recipe.

    Args:
        scores: (B, classes, H, W).
        labels: (B, H, W), class indices, 255 where there is none.
    """
    return F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum") / max(labels.numel(), 1)


def classes_of(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The best class of every pixel of the original image.

    A few classes are resized at a time: all of them at a photograph's own size would take gigabytes.

    Shapes: (B, classes, H, W) to (B, *size).
    """
    at_once = _AT_ONCE // (len(scores) * size[0] * size[1])
    if not at_once:
        return _classes_of_large(scores, size)
    best = scores.new_full((len(scores), *size), float("-inf"))
    classes = torch.zeros(len(scores), *size, dtype=torch.long, device=scores.device)
    for first in range(0, scores.shape[1], at_once):
        value, index = resize(scores[:, first : first + at_once], size=size).max(dim=1)
        better = value > best
        best = torch.where(better, value, best)
        classes = torch.where(better, index + first, classes)
    return classes


def _classes_of_large(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """The same for images of so many pixels that every map of them counts."""
    best = resize(scores[:, :1], size=size)
    classes = torch.zeros_like(best, dtype=torch.uint8 if scores.shape[1] <= 256 else torch.int32)
    value = best
    for index in range(1, scores.shape[1]):
        value = resize(scores[:, index : index + 1], size=size)
        classes.masked_fill_(value > best, index)
        torch.fmax(best, value, out=best)
    del best, value
    return classes[:, 0].long()
