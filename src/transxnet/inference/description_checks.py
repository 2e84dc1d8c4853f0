"""What an exported file says of itself, compared with what it is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from transxnet.bounds import shown
from transxnet.checkpoints.preprocessing import checked_preprocessing
from transxnet.checkpoints.values import (
    MAX_CLASSES,
    items,
    label_names,
    parse_metadata,
    reading_metadata,
    text,
    whole,
)
from transxnet.dense.head import Head
from transxnet.errors import CheckpointError, ConfigError
from transxnet.inference.description import FORMAT_VERSION, FORMATS, PARTS, PRECISIONS, Description, Task
from transxnet.version import __version__

Shape = tuple[int | None, ...]
"""Sizes of a tensor, None for those that are not fixed."""

_MAX_OUTPUTS = 64
_MAX_STRIDE = 4096
_MAX_CHANNELS = 1024
_MAX_TEXT = 200
_ANCHORS = {"retinanet": 9, "mask_rcnn": 3}
"""Anchors at each position of a map."""


class Value(NamedTuple):
    """An input or output of a file.

    Attributes:
        names: Its names.
        shape: Its sizes; None if they are not known.
        is_float: Whether it is in float32.
    """

    names: Sequence[str]
    shape: Shape | None
    is_float: bool


def read_description(said: str | None, path: Path) -> Description:
    """A file's description, every value of the right kind and size, and none at odds with another.

    Args:
        said: JSON; nothing if the file has none.
        path: The file, for messages.

    Raises:
        CheckpointError: If there is none, or it is another version's or no description of ours.
    """
    if not said:
        raise CheckpointError(f"{path} was not written by `transxnet export`: it does not say what it holds")
    with reading_metadata(path):
        values = parse_metadata(said)
        version = values["format_version"]
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise CheckpointError(
                f"{path} was exported by transxnet {shown(values.get('version'))} (format {shown(version)}); this is "
                f"transxnet {__version__}, which reads format {FORMAT_VERSION}: export the network again"
            )
        description = Description(**_checked(values))
        _check_agreement(description, path)
        return description


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, each of its kind; the others stay for the class to refuse."""
    classes = whole("num_classes", values.get("num_classes", 0), 0, MAX_CLASSES)
    checked: dict[str, Any] = {
        **values,
        "task": text("task", values["task"], get_args(Task)),
        "format": text("format", values["format"], FORMATS),
        "precision": text("precision", values["precision"], PRECISIONS),
        "outputs": _names("outputs", values["outputs"]),
        "num_classes": classes,
        "class_names": label_names(values.get("class_names"), classes, "class_names"),
        "preprocessing": _preprocessing(values.get("preprocessing", {})),
        "strides": tuple(whole("strides", one, 1, _MAX_STRIDE) for one in items("strides", values.get("strides", []))),
        "parts": _names("parts", values.get("parts", [])),
        "part": text("part", values.get("part", ""), ("", *PARTS)),
        "opset": whole("opset", values.get("opset", 0), 0, 1000),
    }
    for name in ("architecture", "weights", "version"):
        if len(text(name, values.get(name, ""))) > _MAX_TEXT:
            raise ConfigError(f"{name} has more than {_MAX_TEXT} characters")
    if not isinstance(values.get("head", {}), dict):
        raise ConfigError(f"head must be an object, not {shown(values['head'])}")
    return checked


def _names(name: str, value: Any) -> tuple[str, ...]:
    names = tuple(text(name, one) for one in items(name, value))
    if len(names) > _MAX_OUTPUTS or any(len(one) > _MAX_TEXT for one in names):
        raise ConfigError(f"{name} are too many or too long")
    return names


def _preprocessing(values: Any) -> dict[str, Any]:
    size = values.get("input_size") if isinstance(values, dict) else None
    channels = whole("input_size", size[0], 1, _MAX_CHANNELS) if isinstance(size, list) and size else 3
    checked = checked_preprocessing(values, channels)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in checked.items()}


def _check_agreement(said: Description, path: Path) -> None:
    """Raise ConfigError where a field does not go with the task."""
    dense = said.task in ("segmentation", "detection")
    if dense != bool(said.head):
        raise ConfigError(f"a file for {said.task} has {'a' if dense else 'no'} head")
    kind = ""
    if dense:
        head = Head.from_dict(said.head, str(path))
        kind = head.kind
        if (said.task == "segmentation") != (kind == "semantic_fpn") or head.num_classes != said.num_classes:
            raise ConfigError(f"its head is a {kind} of {head.num_classes} classes, for {said.task} of "
                              f"{said.num_classes}")  # fmt: skip
        if said.class_names != head.label_names:
            raise ConfigError("its class_names are not those of its head")
    steps = [after / before for before, after in itertools.pairwise(said.strides)]
    if said.task == "detection" and (len(steps) < 1 or set(steps) != {2} or said.strides[0].bit_count() != 1):
        raise ConfigError(f"the strides of a detector are powers of two that double, not {shown(said.strides)}")
    if said.task != "detection" and len(said.strides) != (len(said.outputs) if said.task == "features" else 0):
        raise ConfigError(f"its {len(said.outputs)} outputs have {len(said.strides)} strides")
    if said.parts != (tuple(PARTS) if kind == "mask_rcnn" and not said.part else ()):
        raise ConfigError(f"its parts cannot be {shown(said.parts)}")
    if said.part and kind != "mask_rcnn":
        raise ConfigError(f"it cannot be the part {said.part}")
    wanted = tuple(_expected(said))
    if said.task != "features" and said.outputs != wanted:
        raise ConfigError(f"its outputs must be {', '.join(wanted)}, not {shown(said.outputs)}")


def _expected(said: Description) -> dict[str, Shape]:
    """The outputs, by name and in order, that a file of such a description has, and their sizes."""
    classes = said.num_classes
    if said.part == "boxes":
        return {"scores": (None, classes + 1), "codes": (None, 4 * (classes + 1))}
    if said.part == "masks":
        return {"masks": (None, classes + 1, 28, 28)}
    if said.task == "classification":
        return {"scores": (None, classes or None)}
    if said.task == "features":
        return dict.fromkeys(said.outputs, (None, None, None, None))
    if said.task == "segmentation":
        return {"scores": (None, classes, None, None)}
    codes = {"codes": (None, None, 4)}
    if said.head["kind"] == "retinanet":
        return {"scores": (None, None, classes), **codes}
    maps = {f"p{stride.bit_length() - 1}": (None, said.head["pyramid_channels"], None, None)
            for stride in said.strides[:-1]}  # fmt: skip
    return {**maps, "scores": (None, None, 1), **codes}


def check_signature(said: Description, path: Path, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
    """Compare a description with a file's own inputs and outputs.

    Raises:
        CheckpointError: If they differ.
    """
    channels = said.head["pyramid_channels"] if said.part else said.preprocessing.get("input_size", [None])[0]
    side = PARTS[said.part].side if said.part else None
    expected = _expected(said)
    for what, wanted, found in (
        ("inputs", {said.input: (None, channels, side, side)}, inputs),
        ("outputs", expected, outputs),
    ):
        if len(found) != len(wanted):
            raise CheckpointError(f"{path} has {len(found)} {what}, but its description gives {len(wanted)}")
        for (name, shape), value in zip(wanted.items(), found, strict=True):
            if name not in value.names or not value.is_float:
                has = f"{', '.join(map(shown, value.names)) or 'one without a name'}"
                raise CheckpointError(f"{path}: its description gives {name} in float32 among its {what}, not {has}")
            if value.shape is not None and not _agree(shape, value.shape):
                raise CheckpointError(
                    f"{path}: by its description {name} is {_shape(shape)}, but in the file it is {_shape(value.shape)}"
                )


def check_outputs(said: Description, images: Sequence[int], outputs: Sequence[Any], path: Path) -> None:
    """Compare what a file computed with what its description lets expect.

    Args:
        said: The description.
        images: Shape of what went in.
        outputs: Arrays that came out.
        path: The file, for messages.

    Raises:
        CheckpointError: If an output has another shape or type, or is not finite.
    """
    wanted = _computed(said, tuple(images))
    shapes = [output.shape for output in outputs]
    if len(shapes) != len(wanted) or not all(map(_agree, wanted, shapes)):
        raise CheckpointError(
            f"{path} gave {', '.join(map(_shape, shapes))} for {_shape(images)}, but by its description it gives "
            f"{', '.join(map(_shape, wanted))}"
        )
    if strange := [output.dtype for output in outputs if output.dtype != "float32"]:
        raise CheckpointError(f"{path} gave {strange[0]}, not float32")
    if not all(np.isfinite(output.min() + output.max()) for output in outputs if output.size):
        raise CheckpointError(f"{path} gave values that are NaN or infinite")


def _computed(said: Description, images: tuple[int, ...]) -> list[Shape]:
    """Shapes of the outputs for an input's."""
    batch, _, height, width = images
    expected = {name: (batch, *shape[1:]) for name, shape in _expected(said).items()}
    if said.task == "segmentation":
        return [(batch, said.num_classes, height, width)]
    if said.part or not said.strides:
        return list(expected.values())
    grids = [(-(-height // stride), -(-width // stride)) for stride in said.strides]
    if said.task == "features":
        return [(batch, None, *grid) for grid in grids]
    anchors = _ANCHORS[said.head["kind"]] * sum(rows * columns for rows, columns in grids)
    maps = iter(grids)
    return [
        (batch, anchors, shape[2]) if len(shape) == 3 else (batch, shape[1], *next(maps)) for shape in expected.values()
    ]


def _agree(wanted: Shape, found: Sequence[int | None]) -> bool:
    return len(wanted) == len(found) and all(
        one is None or other is None or one == other for one, other in zip(wanted, found, strict=True)
    )


def _shape(sizes: Sequence[int | None]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in sizes)})"
