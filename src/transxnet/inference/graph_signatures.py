"""Inputs, outputs and weights of ONNX and OpenVINO files, as their runtimes give them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transxnet.dense.export_form import Shape
from transxnet.files import check_regular, open_regular
from transxnet.inference.description_checks import Value
from transxnet.inference.formats import library

_START = 4096


def onnx_values(values: Sequence[Any]) -> list[Value]:
    """Inputs or outputs of a session."""
    return [Value([value.name], _sizes(value.shape), value.type == "tensor(float)") for value in values]


def openvino_values(ports: Sequence[Any]) -> list[Value]:
    """Inputs or outputs of a model."""
    values = []
    for port in ports:
        sizes = port.get_partial_shape()
        shape = None if sizes.rank.is_dynamic else [size.get_length() if size.is_static else None for size in sizes]
        values.append(Value(list(port.get_names()), _sizes(shape), port.get_element_type().get_type_name() == "f32"))
    return values


def _sizes(shape: Sequence[Any] | None) -> Shape | None:
    return None if shape is None else tuple(size if isinstance(size, int) else None for size in shape)


def read_openvino(core: Any, path: Path) -> Any:
    """An .xml or .onnx file as a model of OpenVINO's.

    The reader is chosen here: OpenVINO tries all it has, some of which complain on standard error.

    Args:
        core: OpenVINO's.
        path: The file.

    Raises:
        Exception: Of any class, if it is damaged or something else.
    """
    if path.suffix == ".onnx":
        _check_initializers(path)
        reader = library("openvino").frontend.FrontEndManager().load_by_framework("onnx")
        return reader.convert(reader.load(str(path)))
    with open_regular(path) as file:
        if b"<net" not in file.read(_START):
            raise ValueError("it is no model of OpenVINO's")
    return core.read_model(str(path))


def _check_initializers(path: Path) -> None:
    """Refuse weights that are not in an ONNX file, for which OpenVINO takes memory before it looks for them."""
    size = check_regular(path)
    for tensor in library("onnx").load_model(str(path), load_external_data=False).graph.initializer:
        if tensor.external_data or math.prod(tensor.dims) > size:
            raise ValueError(f"its {tensor.name!r:.100} of {list(tensor.dims)!s:.100} is not in the file")
