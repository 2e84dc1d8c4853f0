"""Export of a trained network to a file that other programs run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from transxnet.bounds import ImageCount, checked
from transxnet.dense.protocol import DenseNetwork
from transxnet.errors import ConfigError, TransXNetError
from transxnet.files import user_path
from transxnet.inference import export_checks as checking
from transxnet.inference import formats
from transxnet.inference.description import (
    FORMATS,
    PRECISIONS,
    Description,
    Format,
    Precision,
    describe,
    files_of,
    part_path,
)
from transxnet.inference.export_checks import Check
from transxnet.inference.formats import DEFAULT_OPSET, Opset
from transxnet.inference.quantise import quantise
from transxnet.inference.runtimes import load_exported
from transxnet.inference.tracing import check_model, trace, trace_part

if TYPE_CHECKING:
    from transxnet.inference.calibration import Calibration

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2", "aot": ".pt2"}

# The precisions of each format.
SUPPORTED: dict[Format, tuple[Precision, ...]] = {
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16", "bfloat16", "int8"),
    "torch": ("float32", "bfloat16"),
    "aot": ("float32", "bfloat16"),
}
_LIBRARIES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torch": (),
    "aot": (),
}


LARGEST_LOSS = 0.005
"""Largest loss of accuracy, from the network to its file, that passes."""


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        path: The file; one that failed its check has ``.unchecked`` before its ending.
        description: The file's metadata.
        checks: The comparisons with the network; none if they were not wanted.
        agreement: The share of images (pixels, anchors or regions, for dense networks) for which file and
            network have the same best class, where the precision is not float32; None if it was not measured.
        accuracy: The network's and the file's, where the calibration images have labels.
        metric: Name of the accuracy: "top-1", "box AP", "mask AP" or "mIoU".
        note: Why there is no accuracy.
    """

    path: Path
    description: Description
    checks: tuple[Check, ...]
    agreement: float | None = None
    accuracy: tuple[float, float] | None = None
    metric: str = "top-1"
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether every comparison is within its bound, and a classifier's accuracy too."""
        return all(check.passed for check in self.checks) and not (self.loses and self.metric == "top-1")

    @property
    def loses(self) -> bool:
        """Whether the file is less accurate than the network by more than :data:`LARGEST_LOSS`."""
        return self.accuracy is not None and self.accuracy[0] - self.accuracy[1] > LARGEST_LOSS

    @property
    def files(self) -> list[Path]:
        """The files that were written."""
        return files_of(self.path, self.description)

    @property
    def lines(self) -> list[str]:
        """Agreement and accuracy as lines of text."""
        lines = []
        if self.agreement is not None:
            lines.append(f"same best class as the network: {self.agreement:.2%}")
        if self.accuracy is not None:
            before, after = self.accuracy
            verdict = f"; more than {100 * LARGEST_LOSS:g} points lost" if self.loses else ""
            lines.append(f"{self.metric} before {before:.2%}, after {after:.2%}{verdict}")
        elif self.note:
            lines.append(f"no accuracy: {self.note}")
        return lines


class ExportError(TransXNetError):
    """A written file does not compute what the network computes.

    Attributes:
        exported: The file, under its other name, and the comparisons.
    """

    def __init__(self, exported: Exported) -> None:
        failed = [check for check in exported.checks if not check.passed]
        how = f"is less accurate than the original by more than {100 * LARGEST_LOSS:g} points"
        if failed:
            how = f"differs from the original at {len(failed)} of {len(exported.checks)} sizes"
            how += f" ({checking.worst(failed).line})"
        super().__init__(f"the exported network {how}; it is kept as {exported.path}")
        self.exported = exported


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,  # noqa: A002 (what everybody calls it)
    precision: Precision = "float32",
    opset: int = DEFAULT_OPSET,
    calibration: str | None = None,
    calibration_images: int = 128,
    check: bool = True,
    advance: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write a network as a file for ONNX Runtime, OpenVINO or PyTorch, for any batch, height and width.

    The file is compared with the network at five sizes, in the runtime that it is for; until that is
    passed its name is ``NAME.unchecked.onnx``, so that a wrong file never has the name asked for.

    Args:
        model: A classifier or dense backbone of this package, or a detector or segmenter, in evaluation mode,
            not fused. It is left as it is.
        path: The file to write. Parts of a network that are exported to files of their own, such as
            Mask R-CNN's second stage, go beside it, with ``.boxes`` and ``.masks`` before the ending.
        format: "onnx", "openvino" (a pair of files), "torch" (``torch.export``) or "aot" (compiled for this
            machine); by the file's ending if not given, where .pt2 is "torch".
        precision: "float32", "float16" (weights stored so), "bfloat16" (computed so) or "int8".
        opset: ONNX's version of the operators.
        calibration: For int8: "digits", or a folder of images, from which the ranges of the values are
            found; where it is annotated with the network's classes, the accuracy before and after is measured.
        calibration_images: Images that are used for the ranges.
        check: Whether to compare.
        advance: Called with the name of each step when it starts.

    Raises:
        ConfigError: If the network is in training mode, fused or not exportable, or a choice is not supported.
        DataError: If there are no images to calibrate with.
        ExportError: If the file does not compute what the network computes.
        MissingExtraError: If the format's libraries are not installed.
    """
    target = user_path(path)
    kind = format or _format_by(target)
    check_choices(target, kind, precision, opset)
    checked("calibration_images", calibration_images, ImageCount)
    _check_exportable(model, precision)
    description = describe(model, kind, precision, opset if kind == "onnx" or precision == "int8" else 0)
    for name in {*_LIBRARIES[kind], *(_LIBRARIES["onnx"] if precision == "int8" else ())}:
        formats.library(name)
    images = _calibration(calibration, precision, model)
    unchecked = target.with_name(f"{target.stem}.unchecked{target.suffix}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with _removed_on_failure(unchecked, description):
        if precision == "int8":
            assert images is not None
            _write_quantised(model, unchecked, description, images.images(model, calibration_images), advance)
        else:
            _write(model, unchecked, description, advance)
        exported = Exported(unchecked, description, ())
        if check:
            advance("comparing with the network")
            exported = _checked(model, exported, images)
    return _renamed(exported, target)


@contextmanager
def _removed_on_failure(path: Path, description: Description) -> Iterator[None]:
    """Remove the files of an export to ``path`` if writing or comparing them raises."""
    try:
        yield
    except BaseException:
        for file in files_of(path, description):
            file.unlink(missing_ok=True)
        raise


def check_choices(path: Path, format: Format, precision: Precision, opset: int) -> None:  # noqa: A002
    """Raise ConfigError where a choice is unknown, or does not go with another."""
    if format not in FORMATS:
        raise ConfigError(f"format is one of {', '.join(FORMATS)}, not {format!r}")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision not in SUPPORTED[format]:
        raise ConfigError(f"{format} files hold {', '.join(SUPPORTED[format])}, not {precision}")
    if path.suffix != SUFFIXES[format]:
        raise ConfigError(f"a file for {format} ends in {SUFFIXES[format]}, which {path} does not")
    checked("opset", opset, Opset)


def _check_exportable(model: nn.Module, precision: Precision) -> None:
    """Raise ConfigError where a network cannot be exported, or not in a precision."""
    check_model(model)
    if precision == "int8" and isinstance(model, DenseNetwork) and not model.export_form.int8:
        raise ConfigError(f"{model.title} is not exported in int8; take float32, float16 or bfloat16")
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        raise ConfigError("export takes a network on the CPU; call .cpu() before")


def _renamed(exported: Exported, target: Path) -> Exported:
    """Give the files of a passed export their names; raises ExportError if it did not pass."""
    if not exported.passed:
        raise ExportError(exported)
    for source, name in zip(exported.files, files_of(target, exported.description), strict=True):
        source.replace(name)
    return replace(exported, path=target)


def _format_by(path: Path) -> Format:
    for format, suffix in SUFFIXES.items():  # noqa: A001
        if path.suffix == suffix:
            return format
    raise ConfigError(f"the format of {path} is not clear: give one of {', '.join(FORMATS)}")


def _write(model: nn.Module, path: Path, description: Description, advance: Callable[[str], None]) -> None:
    advance("tracing")
    lower = description.precision == "bfloat16" and description.format != "openvino"
    dtype = torch.bfloat16 if lower else torch.float32
    program = trace(model, dtype)
    advance("writing" if description.format != "aot" else "compiling")
    write = {
        "onnx": formats.write_onnx,
        "openvino": formats.write_openvino,
        "torch": formats.write_torch,
        "aot": formats.write_aot,
    }[description.format]
    write(program, path, description)
    for part in description.parts:
        assert isinstance(model, DenseNetwork)
        write(trace_part(model, part, dtype), part_path(path, part), description.of_part(part))


def _write_quantised(
    model: nn.Module, path: Path, description: Description, images: Iterator[Tensor], advance: Callable[[str], None]
) -> None:
    """In ONNX, where the quantisation is; OpenVINO takes it from there."""
    with tempfile.TemporaryDirectory() as folder:
        plain, quantised = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        _write(model, plain, replace(description, format="onnx", precision="float32"), advance)
        advance("calibrating")
        if description.format == "onnx":
            quantise(plain, path, images, description)
        else:
            quantise(plain, quantised, images, description)
            formats.write_openvino(quantised, path, replace(description, opset=0))


def _calibration(data: str | None, precision: Precision, model: nn.Module) -> Calibration | None:
    """The calibration images, if any; raises ConfigError if int8 lacks them."""
    if precision == "int8" and data is None:
        raise ConfigError("int8 needs images to calibrate with, such as those that the network will see: a folder")
    if data is None:
        return None
    from transxnet.inference.calibration import open_calibration  # the data sets' libraries

    return open_calibration(data, model)


def _checked(model: nn.Module, exported: Exported, images: Calibration | None) -> Exported:
    """The export with deviations, agreement and accuracy measured."""
    runtime = load_exported(exported.path, exported.description.format)
    samples = list(images.images(model, max(size[0] for size in checking.SIZES))) if images else []
    exported = replace(exported, checks=tuple(checking.check(model, runtime, samples)))
    if exported.description.precision in ("float32", "float16") and not exported.passed:
        return exported  # it does not run, or is plainly wrong
    if exported.description.precision != "float32" and exported.description.task != "features":
        batches = images.images(model, checking.COMPARED) if images else checking.random_images(model)
        exported = replace(exported, agreement=checking.agreement(model, runtime, batches))
    if images is None:
        return exported
    if images.accuracy is None:
        return replace(exported, note=images.reason)
    measured = images.accuracy.before_and_after(model, runtime)
    note = "" if measured else "no image has anything to find"
    return replace(exported, accuracy=measured, metric=images.accuracy.metric, note=note)
