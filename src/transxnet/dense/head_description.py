"""Description of the head on a backbone, as checkpoints and exported files store it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from transxnet.bounds import shown
from transxnet.checkpoints.values import MAX_CLASSES, MAX_SIDE, flag, items, label_names, reading_metadata, text, whole
from transxnet.dense.registry import Task, kind_of, kinds, network_class
from transxnet.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from transxnet.dense.protocol import DenseNetwork

_MAX_CHANNELS = 16_384
_MAX_PROPOSALS = 10_000
_MAX_VALUE = 2**25  # of a mask's pixels
_MAX_ID = 2**53  # of a COCO category; JSON has no larger whole numbers


@dataclass(frozen=True)
class HeadDescription:
    """Settings of a detector or segmenter that are not its backbone's.

    Attributes:
        kind: Registered name of the network, such as "retinanet".
        num_classes: Classes.
        pyramid_channels: Channels of the feature pyramid.
        normalised: Whether the convolutions of pyramid and heads have group normalisations; the
            released ones have none.
        label_names: The classes' names; empty if they are not known.
        category_ids: The ids that the classes have in their COCO data set; empty if not known.
        colors: Red, green and blue of each class in pictures; empty if they are not known.
        proposals: Regions that a first stage proposes, where there is one.
        short: Bound of an image's shorter side in pixels, to which it is resized.
        long: Bound of the longer side.
        reduce_zero_label: Whether the data set's label 0 means "none".
        label_values: The value that the data set's masks have for each class, or 2^24 + 0xRRGGBB for a colour;
            empty if the classes are numbered from 0, or from 1 with ``reduce_zero_label``.

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
    label_values: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        text("the kind of a head", self.kind, kinds())
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
        for value in items("label_values", self.label_values, 0, count):
            whole("label_values", value, -_MAX_VALUE, _MAX_VALUE)
        whole("proposals", self.proposals, 1, _MAX_PROPOSALS)
        short, long = whole("short", self.short, 1, MAX_SIDE), whole("long", self.long, 1, MAX_SIDE)
        if short > long:
            raise ConfigError(f"short must be at most long ({long:,}), not {short:,}")

    @property
    def network(self) -> type[DenseNetwork]:
        """The class of the network."""
        return network_class(self.kind)

    @property
    def task(self) -> Task:
        """The task of the network, "detection" or "segmentation"."""
        return self.network.task

    @property
    def transform(self) -> Any:
        """How images are resized and normalised for the network."""
        return self.network.transform_for(self)

    @property
    def predicts_masks(self) -> bool:
        """Whether the network returns masks of the objects."""
        return self.network.predicts_masks

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> HeadDescription:
        """The inverse of ``dataclasses.asdict``.

        Raises:
            CheckpointError: If the description in ``source`` is not one.
        """
        with reading_metadata(source):
            kind = values["kind"]
            if kind not in kinds():
                raise CheckpointError(
                    f"{source} holds a {shown(kind)}; known are {', '.join(kinds())}, and others once the module that "
                    "registers them is imported"
                )
            known = {field.name for field in dataclasses.fields(cls)}
            if unknown := [name for name in values if name not in known]:
                raise ConfigError(f"a head has no {shown(unknown[0])}")
            return cls(**{name: _frozen(value) for name, value in values.items()})


def describe_weights(state_dict: Mapping[str, Tensor], source: str = "the state dict") -> HeadDescription:
    """The head that weights under our names have, by their names and shapes.

    Args:
        state_dict: The weights.
        source: Where they were read from, for messages.

    Raises:
        CheckpointError: If they are no detector's or segmenter's.
    """
    kind = kind_of(state_dict)
    if not kind:
        raise CheckpointError(f"{source} does not hold the weights of a detector or segmenter")
    return network_class(kind).describe_weights(state_dict, source)


def check_head(head: HeadDescription, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Compare a head's description with weights under our names, before anything is allocated.

    Raises:
        CheckpointError: If they differ.
    """
    describe = head.network.describe_weights if head.network.recognises(state_dict) else describe_weights
    found = describe(state_dict, source)
    for name in ("kind", "num_classes", "pyramid_channels", "normalised"):
        described, has = getattr(head, name), getattr(found, name)
        if described != has:
            raise CheckpointError(f"{source}: its description gives {name} {described}, but its tensors have {has}")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
