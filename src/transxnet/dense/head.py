"""What a detector's or segmenter's file says of the network in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from transxnet.config import TransXNetConfig
from transxnet.dense.backbone import DenseBackbone
from transxnet.errors import CheckpointError

KINDS = ("retinanet", "mask_rcnn", "semantic_fpn")

# Names of ours by which a state dict's kind is known, and the layers that depend on the classes.
_MARKS = {
    "retinanet": "head.classification_head.cls_logits.weight",
    "mask_rcnn": "roi_heads.box_predictor.cls_score.weight",
    "semantic_fpn": "head.classifier.weight",
}
CLASS_LAYERS = {
    "retinanet": ("head.classification_head.cls_logits.",),
    "mask_rcnn": ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits."),
    "semantic_fpn": ("head.classifier.",),
}


@dataclass(frozen=True)
class Head:
    """What stands on a backbone.

    Attributes:
        kind: "retinanet", "mask_rcnn" or "semantic_fpn".
        num_classes: Classes.
        pyramid_channels: Channels of the feature pyramid.
        normalised: Whether the convolutions of pyramid and heads have group normalisations; the
            released ones have none.
        label_names: The classes' names; empty if they are not known.
        category_ids: The ids that the classes have in their COCO data set; empty if not known.
        colors: Red, green and blue of each class in pictures; empty if they are not known.
        proposals: Regions that Mask R-CNN's first stage proposes.
        short: Length in pixels to which an image's shorter side is brought.
        long: Bound of the longer side.
        reduce_zero_label: Whether the data set's label 0 means "none".
    """

    kind: str
    num_classes: int
    pyramid_channels: int = 256
    normalised: bool = False
    label_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    proposals: int = 1000
    short: int = 800
    long: int = 1333
    reduce_zero_label: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Head:
        """The inverse of ``dataclasses.asdict``.

        Raises:
            CheckpointError: If the description in ``source`` is not one.
        """
        try:
            head = cls(**{name: _frozen(value) for name, value in values.items()})
        except TypeError as error:
            raise CheckpointError(f"{source}: its description of the network cannot be read ({error})") from error
        if head.kind not in KINDS:
            raise CheckpointError(f"{source} holds a {head.kind!r}; known are {', '.join(KINDS)}")
        return head


def kind_of(state_dict: Mapping[str, Tensor]) -> str:
    """The kind of network that weights under our names belong to; empty if none of these."""
    return next((kind for kind, name in _MARKS.items() if name in state_dict), "")


def head_of(state_dict: Mapping[str, Tensor], kind: str) -> Head:
    """What weights under our names say of themselves: a released file has no description."""
    outputs = state_dict[_MARKS[kind]].shape[0]
    classes = {"retinanet": outputs // 9, "mask_rcnn": outputs - 1, "semantic_fpn": outputs}[kind]
    channels = state_dict["backbone.fpn.inner_blocks.0.0.weight"].shape[0]
    if kind == "semantic_fpn":
        return Head(kind, classes, channels, short=512, long=2048, reduce_zero_label=classes == 150)
    return Head(kind, classes, channels)


class Described:
    """Gives a network on a backbone what :func:`transxnet.save_model` writes beside the weights.

    Attributes:
        head_description: What stands on the backbone.
        architecture: The backbone's registered name.
    """

    head_description: Head
    architecture: str

    def describe(self) -> dict[str, Any]:
        """Architecture, configuration and head, as plain values."""
        return {
            "architecture": self.architecture,
            "config": self.config.to_dict(),
            "pretrained_cfg": {},
            "head": dataclasses.asdict(self.head_description),
        }

    @property
    def config(self) -> TransXNetConfig:
        """The backbone's configuration."""
        body: DenseBackbone = self.backbone.body  # type: ignore[attr-defined]
        return body.config


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
