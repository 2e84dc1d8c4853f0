"""Writing a traced network in the formats of the runtimes."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import torch

from transxnet.bounds import Bound
from transxnet.errors import ConfigError
from transxnet.extras import load
from transxnet.inference.description import KEY, Description

Program = torch.export.ExportedProgram

DEFAULT_OPSET = 20
OPSETS = range(18, 24)
Opset = Annotated[int, Bound(OPSETS[0], OPSETS[-1])]
_NAMES = {"onnx": "ONNX", "onnxscript": "ONNX", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
METADATA_FILE = "transxnet.json"
"""The file in PyTorch's archives that holds the description."""


def library(name: str) -> Any:
    """A library of a runtime; raises MissingExtraError if it is not installed."""
    return load(_NAMES[name.partition(".")[0]], "export", name)


def write_onnx(program: Program, path: Path, description: Description) -> None:
    """Write an ONNX file, everything in it.

    Args:
        program: The traced network.
        path: The file.
        description: Goes into the file's metadata; its opset is the file's.
    """
    for name in ("onnx", "onnxscript"):
        library(name)
    with quiet():
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=description.opset, input_names=[description.input],
            output_names=list(description.outputs), verbose=False,
        )  # fmt: skip
    assert exported is not None
    proto = exported.model_proto
    if description.precision == "float16":
        halve_weights(proto)
    save_onnx(proto, path, description)


def save_onnx(proto: Any, path: Path, description: Description) -> None:
    """Write an ONNX model with its metadata."""
    onnx = library("onnx")
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]  # where in the sources a node comes from
    onnx.helper.set_model_props(proto, {KEY: description.to_json()})
    proto.producer_name, proto.producer_version = "transxnet", description.version
    onnx.save_model(proto, str(path))


def halve_weights(proto: Any) -> None:
    """Store the larger weights in float16; a cast after each keeps the computation in float32."""
    onnx = library("onnx")
    casts = []
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != "float32" or values.size < 16:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def write_openvino(program: Program | Path, path: Path, description: Description) -> None:
    """Write OpenVINO's pair of files, ``path`` and the weights beside it with the ending ``.bin``.

    Args:
        program: The traced network, or an ONNX file.
        path: The .xml file.
        description: Goes into the file's rt_info.
    """
    openvino = library("openvino")
    with quiet():
        model = openvino.convert_model(program)
    mode = "coordinate_transformation_mode"
    for operation in model.get_ops():
        if operation.get_type_name() == "Interpolate" and operation.get_attributes()[mode] == "pytorch_half_pixel":
            operation.set_attribute(mode, "half_pixel")  # PyTorch resizes to a length of 1 as to any other
    model.inputs[0].get_tensor().set_names({description.input})
    for output, name in zip(model.outputs, description.outputs, strict=True):
        output.get_tensor().set_names({name})
    model.set_rt_info(description.to_json(), [KEY])
    openvino.save_model(model, str(path), compress_to_fp16=description.precision == "float16")


def write_torch(program: Program, path: Path, description: Description) -> None:
    """Write a program that ``torch.export.load`` reads."""
    torch.export.save(program, path, extra_files={METADATA_FILE: description.to_json()})


def write_aot(program: Program, path: Path, description: Description) -> None:
    """Compile with AOTInductor, for this processor and operating system.

    Raises:
        ConfigError: If there is no C++ compiler, or it fails.
    """
    from torch._inductor import aoti_compile_and_package

    configs = {"aot_inductor.metadata": {KEY: description.to_json()}}
    try:
        with quiet():
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ConfigError(f"PyTorch could not compile the network here (is there a C++ compiler?): {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' progress and warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
