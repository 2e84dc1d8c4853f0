"""What an exported file says of the network in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from transxnet.checkpoints.writing import description as description_of
from transxnet.dense.backbone import DenseBackbone
from transxnet.dense.detection.mask_rcnn import MaskRCNN
from transxnet.dense.detection.regions import BOX_SIDE, MASK_SIDE
from transxnet.dense.detection.retinanet import RetinaNet
from transxnet.dense.semantic_fpn import SemanticFPN
from transxnet.errors import ConfigError
from transxnet.model import TransXNet
from transxnet.version import __version__

Format = Literal["onnx", "openvino", "torch", "aot"]
FORMATS: tuple[Format, ...] = get_args(Format)
Precision = Literal["float32", "float16", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Task = Literal["classification", "features", "segmentation", "detection"]

FORMAT_VERSION = 1
"""Of what a file says of itself; another one is not read."""

KEY = "transxnet"
"""Where a file holds it, as JSON: ONNX's metadata, OpenVINO's rt_info, a file in PyTorch's archives."""

SMALLEST = 32
"""Sides of the smallest images in pixels."""


@dataclass(frozen=True)
class Part:
    """A head of a detector's second stage, which has a file of its own.

    Attributes:
        side: Of the pooled regions (R, C, side, side) that it takes.
        outputs: Names of its outputs.
    """

    side: int
    outputs: tuple[str, ...]


PARTS = {"boxes": Part(BOX_SIDE, ("scores", "codes")), "masks": Part(MASK_SIDE, ("masks",))}
"""Mask R-CNN's, by the word before their files' ending."""

_PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True)
class Description:
    """What an exported file says of itself.

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
        head: Of a segmenter or detector, the fields of :class:`~transxnet.dense.head.Head`.
        strides: Input pixels for each step of each map, of features or of a detector's pyramid.
        parts: Words by which the files beside this one are known, of :data:`PARTS`.
        part: The word of such a file; empty in a file that images go into.
        weights: Digest of the weights where a network has several files: the same in all of them.
        opset: ONNX's version of the operators; 0 for other formats.
        version: Of this package.
        format_version: Of this description.
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

    def of_part(self, part: str) -> Description:
        """What the file of a part says."""
        return dataclasses.replace(self, outputs=PARTS[part].outputs, parts=(), part=part)

    def to_json(self) -> str:
        """JSON that :func:`~transxnet.inference.description_checks.read_description` reads."""
        return json.dumps(dataclasses.asdict(self))


def describe(model: nn.Module, format: Format, precision: Precision, opset: int = 0) -> Description:  # noqa: A002
    """What a file is to say of a network.

    Raises:
        ConfigError: If the network is none that can be exported.
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
        said = json.loads(description_of(model))
        cfg = said["pretrained_cfg"]
        kept = {name: cfg[name] for name in _PREPROCESSING if name in cfg}
        return Description(
            "classification", said["architecture"], format, precision, ("scores",), model.num_classes,
            tuple(cfg.get("label_names", ())), normal | kept, opset=opset,
        )  # fmt: skip
    if isinstance(model, SemanticFPN | RetinaNet | MaskRCNN):
        return _describe_dense(model, Description("detection", model.architecture, format, precision, (), opset=opset))
    raise ConfigError(
        "export takes classifiers, backbones, Semantic FPN, RetinaNet and Mask R-CNN of this package, not "
        f"{type(model).__name__}"
    )


def _describe_dense(model: SemanticFPN | RetinaNet | MaskRCNN, said: Description) -> Description:
    head = dataclasses.asdict(model.head_description)
    normal = {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}
    said = dataclasses.replace(
        said, num_classes=head["num_classes"], class_names=tuple(head["label_names"]), preprocessing=normal, head=head
    )
    if isinstance(model, SemanticFPN):
        return dataclasses.replace(said, task="segmentation", outputs=("scores",))
    strides: tuple[int, ...] = model.backbone.strides
    if isinstance(model, RetinaNet):
        return dataclasses.replace(said, outputs=("scores", "codes"), strides=strides)
    maps = [f"p{stride.bit_length() - 1}" for stride in strides[:-1]]  # P2 has a stride of 2 ** 2
    return dataclasses.replace(
        said, outputs=(*maps, "scores", "codes"), strides=strides, parts=tuple(PARTS), weights=_digest(model)
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
    names += [part_path(name, part) for name in names for part in PARTS]
    return names if format != "openvino" else [file for name in names for file in (name, name.with_suffix(".bin"))]


def files_of(path: Path, said: Description) -> list[Path]:
    """What an export writes, the file that names the others last."""
    networks = [*(part_path(path, part) for part in said.parts), path]
    if said.format != "openvino":
        return networks
    return [file for network in networks for file in (network.with_suffix(".bin"), network)]
