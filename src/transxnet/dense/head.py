"""What a detector's or segmenter's file says of the network in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from transxnet.bounds import shown
from transxnet.checkpoints.values import MAX_CLASSES, MAX_SIDE, flag, items, label_names, reading_metadata, text, whole
from transxnet.config import TransXNetConfig
from transxnet.dense.backbone import DenseBackbone
from transxnet.errors import CheckpointError, ConfigError

KINDS = ("retinanet", "mask_rcnn", "semantic_fpn")

_MAX_CHANNELS = 16_384
_MAX_PROPOSALS = 10_000
_MAX_ID = 2**53  # of a COCO category; JSON has no larger whole numbers

# Names of ours by which a state dict's kind is known, and the layers that depend on the classes.
_MARKS = {
    "retinanet": "head.classification_head.cls_logits.weight",
    "mask_rcnn": "roi_heads.box_predictor.cls_score.weight",
    "semantic_fpn": "head.classifier.weight",
}
_INNER = "backbone.fpn.inner_blocks.0."  # a convolution, and its normalisation if it has one
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

    Raises:
        ConfigError: If a value is of another kind or out of its range.
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

    def __post_init__(self) -> None:
        text("the kind of a head", self.kind, KINDS)
        count = whole("num_classes", self.num_classes, 1, MAX_CLASSES)
        whole("pyramid_channels", self.pyramid_channels, 1, _MAX_CHANNELS)
        flag("normalised", self.normalised)
        flag("reduce_zero_label", self.reduce_zero_label)
        label_names(self.label_names, count)
        for number in items("category_ids", self.category_ids, 0, count):
            whole("category_ids", number, -_MAX_ID, _MAX_ID)
        for color in items("colors", self.colors, 0, count):
            for level in items("colors", color, 3):
                whole("colors", level, 0, 255)
        whole("proposals", self.proposals, 1, _MAX_PROPOSALS)
        short, long = whole("short", self.short, 1, MAX_SIDE), whole("long", self.long, 1, MAX_SIDE)
        if short > long:
            raise ConfigError(f"short must be at most long ({long:,}), not {short:,}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Head:
        """The inverse of ``dataclasses.asdict``.

        Raises:
            CheckpointError: If the description in ``source`` is not one.
        """
        with reading_metadata(source):
            kind = values["kind"]
            if kind not in KINDS:
                raise CheckpointError(f"{source} holds a {shown(kind)}; known are {', '.join(KINDS)}")
            known = {field.name for field in dataclasses.fields(cls)}
            if unknown := [name for name in values if name not in known]:
                raise ConfigError(f"a head has no {shown(unknown[0])}")
            return cls(**{name: _frozen(value) for name, value in values.items()})


def kind_of(state_dict: Mapping[str, Tensor]) -> str:
    """The kind of network that weights under our names belong to; empty if none of these."""
    return next((kind for kind, name in _MARKS.items() if name in state_dict), "")


def head_of(state_dict: Mapping[str, Tensor], kind: str) -> Head:
    """The head that weights under our names have, by their shapes: a released file has no description.

    Raises:
        CheckpointError: If no head of that kind has such weights.
    """
    outputs, channels = (_rows(state_dict.get(name)) for name in (_MARKS.get(kind, ""), f"{_INNER}0.weight"))
    classes = {"retinanet": outputs // 9, "mask_rcnn": outputs - 1, "semantic_fpn": outputs}.get(kind, 0)
    if classes < 1 or channels < 1:
        raise CheckpointError(f"these are no weights of a {kind or 'detector or segmenter'}")
    normalised = f"{_INNER}1.weight" in state_dict
    if kind == "semantic_fpn":
        return Head(kind, classes, channels, normalised, short=512, long=2048, reduce_zero_label=classes == 150)
    return Head(kind, classes, channels, normalised)


def check_head(head: Head, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Compare a head's description with weights under our names, before anything is allocated.

    Raises:
        CheckpointError: If they differ.
    """
    found = head_of(state_dict, kind_of(state_dict))
    for name in ("kind", "num_classes", "pyramid_channels", "normalised"):
        said, has = getattr(head, name), getattr(found, name)
        if said != has:
            raise CheckpointError(f"{source}: its description gives {name} {said}, but its tensors have {has}")


def _rows(tensor: Tensor | None) -> int:
    return tensor.shape[0] if tensor is not None and tensor.ndim else 0


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
