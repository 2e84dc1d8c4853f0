"""Answers as JSON, and their description for clients."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from transxnet.api.preparation import Prepared
from transxnet.api.results import Prediction, Segmentation
from transxnet.config import VARIANTS
from transxnet.extras import EXTRAS, installed
from transxnet.inference.runtimes import format_of, is_exported
from transxnet.kernels.cpu.blocks import NativeBlocks
from transxnet.layers import is_fused
from transxnet.serve.faults import RequestFault
from transxnet.text import unicode_text
from transxnet.version import __version__

TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/avif",
    "image/gif",
    "image/bmp",
    "image/tiff",
    "image/jp2",
    "image/x-portable-pixmap",
    "image/x-tga",
)
"""Media types of the images that are read; it is an image's content that decides."""

_CODES: Any = sorted({one.code for one in RequestFault.__subclasses__()})
_RUNTIMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO", "torch": "PyTorch's programs", "aot": "AOTInductor"}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class ModelDescription(BaseModel):
    """The network that is served."""

    name: str = Field(description="Registered name of the network", examples=["transxnet_t"])
    task: Literal["classification", "detection", "segmentation"]
    checkpoint: str = Field(description="Name of its file, without folders")
    classes: list[str]
    colours: list[str] = Field(description="A detector's or segmenter's colour of each class", examples=[["#dc143c"]])
    input: dict[str, int] | None = Field(description="Size of a classifier's images in pixels")
    channels: int
    precision: str = Field(description="Type that the network computes in", examples=["float32"])
    fused: bool
    runtime: str = Field(description="What computes the network", examples=["PyTorch with native kernels"])
    device: str
    parameters: int | None = Field(description="Number of weights before folding; null for an exported file")
    stages: int = Field(description="Number of stages, of which each has a heat map")
    supports: dict[str, bool] = Field(description="Whether heat maps (gradcam) and pooled features are given")
    top: int = Field(description="Classes that a classifier gives if no other number is wanted")
    min_score: float = Field(description="Minimum score of a detector's objects if no other is wanted")
    types: list[str] = list(TYPES)
    version: str = __version__


class Fault(_Model):
    """Why there is no answer."""

    status: int
    code: str = Field(json_schema_extra={"enum": _CODES})
    message: str = Field(description="What was wrong, and what to do")


class FailedPrediction(_Model):
    """An image without an answer, among others."""

    image: str
    error: Fault


class ClassAnswer(_Model):
    """A class with its probability."""

    name: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)


class HeatMap(_Model):
    """Evidence for a class by Grad-CAM."""

    stage: int
    name: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)
    png: str = Field(description="A grey PNG of 8 bits in base64, of the size of the network's input")
    area: tuple[float, float, float, float] = Field(
        description="Left, top, right and bottom of the part of the image, in its pixels, that the map covers"
    )


class _Seen(_Model):
    image: str = Field(description='Name of the file, or "image 0"')
    width: int = Field(ge=1, description="In pixels, in the camera's orientation")
    height: int = Field(ge=1)


class ClassificationPrediction(_Seen):
    """The most probable classes of an image."""

    answers: list[ClassAnswer] = Field(description="Best first")
    features: list[float] | None = Field(None, description="The pooled vector")
    gradcam: HeatMap | None = None


class DetectedObject(_Model):
    """An object."""

    name: str = Field(alias="class")
    score: float = Field(ge=0, le=1)
    box: tuple[float, float, float, float] = Field(description="Left, top, right and bottom in pixels")


class RunLengths(_Model):
    """A mask as COCO's compressed run lengths."""

    size: tuple[int, int] = Field(description="Height and width")
    counts: str


class CocoResult(_Model):
    """An object in COCO's results format."""

    image_id: str
    category_id: int
    bbox: tuple[float, float, float, float] = Field(description="Left, top, width and height in pixels")
    score: float = Field(ge=0, le=1)
    segmentation: RunLengths | None = None


class DetectionPrediction(_Seen):
    """The objects in an image, the most certain first."""

    objects: list[DetectedObject]
    results: list[CocoResult] = Field(description="The same in COCO's results format")


class SegmentationPrediction(_Seen):
    """The class of each pixel of an image."""

    shares: dict[str, float] = Field(description="Share of the pixels by class, the largest first")
    label_map: str = Field(
        description="A grey PNG in base64 whose values are class indices, of 16 bits for more than 256 classes"
    )


class Seconds(_Model):
    """Times of a request."""

    total: float


class Answer(_Model):
    """The answer to a request: a prediction for each image, in order."""

    task: Literal["classification", "detection", "segmentation"]
    predictions: list[ClassificationPrediction | DetectionPrediction | SegmentationPrediction | FailedPrediction]
    seconds: Seconds


def describe(predictor: Any, settings: dict[str, Any]) -> ModelDescription:
    """The description of a predictor's network.

    Args:
        predictor: A :class:`~transxnet.api.prediction.Predictor`.
        settings: Its arguments.
    """
    network, head = predictor.network, predictor.head
    checkpoint = str(settings.get("checkpoint") or "")
    exported = is_exported(checkpoint)
    classifier = predictor.task == "classification"
    name = _architecture(network) or type(network).__name__
    size = vars(network)["pretrained_cfg"]["input_size"] if classifier else None
    return ModelDescription(
        name=name,
        task=predictor.task,
        checkpoint=unicode_text(checkpoint.rstrip("/").rpartition("/")[2]),
        classes=[unicode_text(one) for one in predictor.class_names],
        colours=["#{:02x}{:02x}{:02x}".format(*color) for color in head.colors] if head else [],
        input={"width": size[2], "height": size[1]} if size else None,
        channels=predictor.channels,
        precision=predictor.precision,
        fused=is_fused(network),
        runtime=_runtime(network, checkpoint if exported else "", settings.get("runtime")),
        device=str(predictor.device),
        parameters=getattr(network, "parameter_count", None),
        stages=_stages(network, name),
        supports={
            "gradcam": classifier and not exported and installed(EXTRAS["analysis"]["grad-cam"]),
            "features": classifier and not exported,
        },
        top=predictor.top,
        min_score=predictor.min_score,
    )


def _architecture(network: Any) -> str:
    config = getattr(network, "pretrained_cfg", None) or {}
    return str(getattr(network, "architecture", "") or config.get("architecture", ""))


def _stages(network: Any, name: str) -> int:
    config = getattr(network, "config", None) or VARIANTS.get(name)
    return len(config.depths) if config else 0


def _runtime(network: Any, exported: str, runtime: str | None) -> str:
    if exported:
        return _RUNTIMES[runtime or format_of(Path(exported))]
    native = any(isinstance(module, NativeBlocks) for module in network.modules())
    return "PyTorch with native kernels" if native else "PyTorch"


def answer_for(image: Prepared, prediction: Prediction, features: Tensor | None, count: int) -> dict[str, Any]:
    """A prediction as JSON: the result's own values, and pixels as PNG.

    Args:
        image: The image.
        prediction: What the network predicts for it.
        features: The pooled vector (C), if wanted.
        count: Number of classes.
    """
    answer = prediction.to_dict() | {"width": image.size[0], "height": image.size[1]}
    if isinstance(prediction, Segmentation) and prediction.classes is not None:
        labels = prediction.classes.numpy()
        answer["label_map"] = grey_png(labels.astype(np.uint8 if count <= 256 else np.uint16))
    if features is not None:
        answer["features"] = features.tolist()
    return answer


def grey_png(values: npt.NDArray[np.uint8 | np.uint16]) -> str:
    """Values (H, W) as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
