"""Checks of an exported file's metadata against its content."""

from __future__ import annotations

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
from transxnet.dense.export_form import InputSize, Shape
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.registry import part_names
from transxnet.errors import CheckpointError, ConfigError
from transxnet.inference.description import FORMAT_VERSION, FORMATS, PRECISIONS, Description, Task
from transxnet.version import __version__

_MAX_OUTPUTS = 64
_MAX_STRIDE = 4096
_MAX_CHANNELS = 1024
_MAX_TEXT = 200


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


def read_description(metadata: str | None, path: Path) -> Description:
    """Parse and check a file's metadata: every value has the right type and size, and none contradicts another.

    Args:
        metadata: JSON; nothing if the file has none.
        path: The file, for messages.

    Raises:
        CheckpointError: If there is none, or it is another version's or no description of ours.
    """
    if not metadata:
        raise CheckpointError(f"{path} was not written by `transxnet export`: it does not say what it holds")
    with reading_metadata(path):
        values = parse_metadata(metadata)
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
    """The fields, each of its type; the others stay for the class to refuse."""
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
        "part": text("part", values.get("part", ""), ("", *part_names())),
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


def _check_agreement(description: Description, path: Path) -> None:
    """Raise ConfigError where a field contradicts another."""
    task, outputs, strides = description.task, description.outputs, description.strides
    dense = task in ("segmentation", "detection")
    if dense != bool(description.head):
        raise ConfigError(f"a file for {task} has {'a' if dense else 'no'} head")
    if dense:
        head = HeadDescription.from_dict(description.head, str(path))
        if task != head.task or head.num_classes != description.num_classes:
            raise ConfigError(f"its head is a {head.kind} of {head.num_classes} classes, for {task} of "
                              f"{description.num_classes}")  # fmt: skip
        if description.class_names != head.label_names:
            raise ConfigError("its class_names are not those of its head")
        head.network.export_form.check_strides(strides)
    elif len(strides) != (len(outputs) if task == "features" else 0):
        raise ConfigError(f"its {len(outputs)} outputs have {len(strides)} strides")
    parts = tuple(description.form.parts) if dense else ()
    if description.parts != (() if description.part else parts):
        raise ConfigError(f"its parts cannot be {shown(description.parts)}")
    if description.part and description.part not in parts:
        raise ConfigError(f"it cannot be the part {description.part}")
    expected = tuple(_expected(description))
    if task != "features" and outputs != expected:
        raise ConfigError(f"its outputs must be {', '.join(expected)}, not {shown(outputs)}")


def _expected(description: Description, size: InputSize | None = None) -> dict[str, Shape]:
    """Names and shapes, in order, of the outputs that a file with such metadata has.

    Args:
        description: The metadata.
        size: The input's; of a part, the number of regions and their sides. Shapes are open without it.
    """
    batch = size.batch if size else None
    if description.part:
        shapes = description.part_file.shapes(description.num_classes)
        return {name: (batch, *shape[1:]) for name, shape in shapes.items()}
    if description.task == "classification":
        return {"scores": (batch, description.num_classes or None)}
    if description.task == "features":
        maps = zip(description.outputs, description.strides, strict=True)
        return {name: (batch, None, *_grid(size, stride)) for name, stride in maps}
    return description.form.shapes(description.head_description, description.strides, size)


def _grid(size: InputSize | None, stride: int) -> Shape:
    return (-(-size.height // stride), -(-size.width // stride)) if size else (None, None)


def check_signature(description: Description, path: Path, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
    """Compare a file's metadata with its own inputs and outputs.

    Raises:
        CheckpointError: If they differ.
    """
    channels: int | None = description.preprocessing.get("input_size", [None])[0]
    side = None
    if description.part:
        channels, side = description.head["pyramid_channels"], description.part_file.side
    wanted_inputs: dict[str, Shape] = {description.input: (None, channels, side, side)}
    for what, wanted, found in (("inputs", wanted_inputs, inputs), ("outputs", _expected(description), outputs)):
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


def check_outputs(description: Description, images: Sequence[int], outputs: Sequence[Any], path: Path) -> None:
    """Compare the outputs of a file with the shapes that its metadata gives.

    Args:
        description: The metadata.
        images: Shape of the input.
        outputs: The outputs.
        path: The file, for messages.

    Raises:
        CheckpointError: If an output has another shape or type, or is not finite.
    """
    batch, _, height, width = images
    wanted = list(_expected(description, InputSize(batch, height, width)).values())
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


def _agree(wanted: Shape, found: Sequence[int | None]) -> bool:
    return len(wanted) == len(found) and all(
        one is None or other is None or one == other for one, other in zip(wanted, found, strict=True)
    )


def _shape(sizes: Sequence[int | None]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in sizes)})"
