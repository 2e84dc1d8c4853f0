"""Small ONNX models with metadata."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from transxnet.inference.description import Description

CLASSES = 10


NORMAL = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "input_size": [3, 64, 64], "interpolation": "bicubic"}


def description(format: Any = "onnx", **values: Any) -> Description:  # noqa: A002 (the field's name)
    names = tuple(f"class {number}" for number in range(CLASSES))
    default = Description("classification", "transxnet_nano", format, "float32", ("scores",), CLASSES, names, NORMAL)
    return Description(**{**vars(default), **values})


def program(
    metadata: str | None, outputs: dict[str, tuple[Any, ...]] | None = None, name: str = "images", channels: int = 3
) -> Any:
    """An ONNX model that scores ten classes by the mean colour, with metadata."""
    onnx = importlib.import_module("onnx")
    helper, numbers = onnx.helper, onnx.numpy_helper
    nodes = [
        helper.make_node("GlobalAveragePool", [name], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight"], ["scores"]),
    ]
    shapes = {"scores": ("batch", CLASSES)} if outputs is None else outputs
    nodes += [helper.make_node("Identity", ["scores"], [other]) for other in shapes if other != "scores"]
    graph = helper.make_graph(
        nodes, "graph",
        [helper.make_tensor_value_info(name, 1, ["batch", channels, "height", "width"])],
        [helper.make_tensor_value_info(output, 1, shape) for output, shape in shapes.items()],
        [numbers.from_array(np.ones((channels, CLASSES), np.float32), "weight")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if metadata is not None:
        helper.set_model_props(model, {"transxnet": metadata})
    return model
