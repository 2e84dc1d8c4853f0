"""Metadata of an exported file: the network in it, its outputs and its preprocessing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from transxnet.checkpoints.writing import description as description_of
from transxnet.dense.backbone import DenseBackbone
from transxnet.dense.export_form import ExportForm, PartFile
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.protocol import DenseNetwork
from transxnet.dense.registry import part_names
from transxnet.errors import ConfigError
from transxnet.model import TransXNet
from transxnet.version import __version__

Format = Literal["onnx", "openvino", "torch", "aot"]
FORMATS: tuple[Format, ...] = get_args(Format)
Precision = Literal["float32", "float16", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Task = Literal["classification", "features", "segmentation", "detection"]

FORMAT_VERSION = 1
"""Version of the metadata; files of another one are not read."""

KEY = "transxnet"
"""Where a file holds its metadata, as JSON: ONNX's metadata, OpenVINO's rt_info, a file in PyTorch's archives."""

SMALLEST = 32
"""Sides of the smallest images in pixels."""


_PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True)
class Description:
    """Metadata of an exported file.

    Attributes:
        task: "classification" (scores), "features" (a map for each stage), "segmentation" (scores of
            every pixel) or "detection" (scores and box codes of every anchor; of Mask R-CNN also
            maps to pool regions from).
        architecture: The network's registered name.
        format: "onnx", "openvino", "torch" or "aot".
        precision: "float32", "float16", "bfloat16" or "int8".
        outputs: Names of the outputs, in order.
        num_classes: Classes; 0 for features.
        class_names: Their names; empty if they are not known.
        preprocessing: ``mean``, ``std``, and for classifiers ``input_size``, ``interpolation``,
            ``crop_pct`` and ``crop_mode``, as timm has them.
        head: Of a segmenter or detector, the fields of
            :class:`~transxnet.dense.head_description.HeadDescription`.
        strides: Input pixels for each step of each map, of features or of a detector's pyramid.
        parts: Names of the parts of the network that have files of their own beside this one; a name is
            the word before the file's ending.
        part: Name of the part that this file holds; empty in a file that takes images.
        weights: Digest of the weights where a network has several files: the same in all of them.
        opset: ONNX's version of the operators; 0 for other formats.
        version: Version of this package.
        format_version: Version of the metadata.
    """

    task: Task
    architecture: str
    format: Format
    precision: Precision
    outputs: tuple[str, ...]
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    strides: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()
    part: str = ""
    weights: str = ""
    opset: int = 0
    version: str = __version__
    format_version: int = FORMAT_VERSION

    @property
    def input(self) -> str:
        """Name of the input."""
        return "regions" if self.part else "images"

    @property
    def form(self) -> ExportForm:
        """The exported form of a segmenter or detector."""
        return self.head_description.network.export_form

    @cached_property
    def head_description(self) -> HeadDescription:
        """The head of a segmenter or detector."""
        return HeadDescription.from_dict(self.head, "the exported file")

    @property
    def part_file(self) -> PartFile:
        """Sizes of the part that this file holds."""
        return self.form.parts[self.part]

    def of_part(self, part: str) -> Description:
        """Metadata of the file of a part."""
        outputs = tuple(self.form.parts[part].shapes(self.num_classes))
        return dataclasses.replace(self, outputs=outputs, parts=(), part=part)

    def to_json(self) -> str:
        """JSON that :func:`~transxnet.inference.description_checks.read_description` reads."""
        return json.dumps(dataclasses.asdict(self))


def describe(model: nn.Module, format: Format, precision: Precision, opset: int = 0) -> Description:  # noqa: A002
    """Metadata for a network's file.

    Raises:
        ConfigError: If the network cannot be exported.
    """
    normal = {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}
    if isinstance(model, DenseBackbone):
        outputs = tuple(f"stage{index + 1}" for index in model.out_indices)
        architecture = getattr(model, "architecture", "")
        return Description(
            "features",
            architecture,
            format,
            precision,
            outputs,
            preprocessing=normal,
            strides=model.strides,
            opset=opset,
        )
    if isinstance(model, TransXNet):
        about = json.loads(description_of(model))
        cfg = about["pretrained_cfg"]
        kept = {name: cfg[name] for name in _PREPROCESSING if name in cfg}
        return Description(
            "classification", about["architecture"], format, precision, ("scores",), model.num_classes,
            tuple(cfg.get("label_names", ())), normal | kept, opset=opset,
        )  # fmt: skip
    if isinstance(model, DenseNetwork):
        return _describe_dense(model, Description(model.task, model.architecture, format, precision, (), opset=opset))
    raise ConfigError(
        "export takes classifiers and backbones of this package, and registered detectors and segmenters, not "
        f"{type(model).__name__}"
    )


def _describe_dense(model: DenseNetwork, plain: Description) -> Description:
    head, form = model.head_description, model.export_form
    strides = form.strides(model)
    return dataclasses.replace(
        plain,
        outputs=tuple(form.shapes(head, strides)),
        num_classes=head.num_classes,
        class_names=head.label_names,
        preprocessing={"mean": list(model.mean), "std": list(model.std)},
        head=dataclasses.asdict(head),
        strides=strides,
        parts=tuple(form.parts),
        weights=_digest(model) if form.parts else "",
    )


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def part_path(path: Path, part: str) -> Path:
    """The file of a part of the network in ``path``."""
    return path.with_name(f"{path.stem}.{part}{path.suffix}")


def possible_files(path: Path, format: Format) -> list[Path]:  # noqa: A002
    """Everything that an export to ``path`` may write: its parts, OpenVINO's weights, and what failed its check."""
    names = [path, path.with_name(f"{path.stem}.unchecked{path.suffix}")]
    names += [part_path(name, part) for name in names for part in part_names()]
    return names if format != "openvino" else [file for name in names for file in (name, name.with_suffix(".bin"))]


def files_of(path: Path, description: Description) -> list[Path]:
    """The files that an export writes, the one that names the others last."""
    networks = [*(part_path(path, part) for part in description.parts), path]
    if description.format != "openvino":
        return networks
    return [file for network in networks for file in (network.with_suffix(".bin"), network)]
