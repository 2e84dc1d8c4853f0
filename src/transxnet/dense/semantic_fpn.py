"""Semantic FPN: a class for every pixel, from a feature pyramid (table IV)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from transxnet.checkpoints.released_dense import ReleasedNames
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.pixel_classes import resize
from transxnet.dense.protocol import Segmenter
from transxnet.dense.pyramid import PyramidBackbone
from transxnet.dense.registry import register_dense_network
from transxnet.layers.norm import BatchNorm2d

_RELEASED_NAMES = ReleasedNames(
    "decode_head.conv_seg.weight",
    (
        (r"decode_head\.conv_seg\.", "head.classifier."),
        (r"decode_head\.scale_heads\.(\d)\.(\d)\.conv\.", r"head.levels.\1.\2.0."),
        (r"decode_head\.scale_heads\.(\d)\.(\d)\.bn\.", r"head.levels.\1.\2.1."),
    ),
)
_ADE20K_CLASSES = 150


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


@register_dense_network("semantic_fpn")
class SemanticFPN(Segmenter):
    """A segmenter.

    Args:
        backbone: Backbone and pyramid.
        num_classes: Classes.
    """

    title = "Semantic FPN"
    class_weight = "head.classifier.weight"
    released_names = _RELEASED_NAMES

    def __init__(self, backbone: PyramidBackbone, num_classes: int = 150) -> None:
        super().__init__(backbone, num_classes)
        self.head = SemanticHead(backbone.out_channels, backbone.strides, num_classes)

    @classmethod
    def describe_weights(cls, weights: Mapping[str, Tensor], source: str = "the state dict") -> HeadDescription:
        head = super().describe_weights(weights, source)
        return dataclasses.replace(head, reduce_zero_label=head.num_classes == _ADE20K_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of every pixel. Shapes: (B, 3, H, W) to (B, num_classes, H, W)."""
        return resize(self.head(list(self.backbone(x).values())), size=x.shape[2:])
