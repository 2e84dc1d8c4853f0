"""Eight-bit integers instead of float32, with ranges found on a user's images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from transxnet.inference.description import Description
from transxnet.inference.formats import library, quiet, save_onnx

# Attention, the position bias, pooling and IDConv multiply computed values, with few values to
# a range: they stay in float32.
OPERATORS = ["Conv", "Gemm"]


def quantise(source: Path, target: Path, images: Iterable[Tensor], description: Description) -> None:
    """Write an ONNX file whose convolutions and linear layers compute in eight bits.

    Weights have a range for each channel, activations one for each tensor, the smallest and the
    largest value seen.

    Args:
        source: The ONNX file in float32.
        target: The file to write.
        images: (1, C, H, W) each.
        description: The file's metadata.
    """
    onnx, tools = library("onnx"), library("onnxruntime.quantization")
    with quiet():
        tools.quantize_static(
            source,
            target,
            _reader(tools, images),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            calibrate_method=tools.CalibrationMethod.MinMax,
        )
    save_onnx(onnx.load(str(target)), target, description)


def _reader(tools: Any, images: Iterable[Tensor]) -> Any:
    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.rest, None)
            return None if image is None else {"images": image.numpy()}

    return Reader()
