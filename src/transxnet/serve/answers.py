"""Answers as JSON, and their description for clients."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image
from pydantic import BaseModel
from torch import Tensor

from transxnet.api.preparation import Prepared
from transxnet.api.results import Prediction, Segmentation
from transxnet.version import __version__


class ModelDescription(BaseModel):
    """The network that is served."""

    name: str
    task: str
    checkpoint: str
    classes: list[str]
    colours: list[str]
    input: dict[str, int] | None
    channels: int
    precision: str
    fused: bool
    device: str
    parameters: int
    stages: int
    supports: dict[str, bool]
    top: int
    min_score: float
    version: str = __version__


def describe(predictor: Any, settings: dict[str, Any]) -> ModelDescription:
    """The description of a predictor's network."""
    network = predictor.network
    head = predictor.head
    size = None if head else vars(network)["pretrained_cfg"]["input_size"]
    return ModelDescription(
        name=str(getattr(network, "architecture", "") or type(network).__name__),
        task=predictor.task,
        checkpoint=str(settings.get("checkpoint") or "").rpartition("/")[2],
        classes=list(predictor.class_names),
        colours=["#%02x%02x%02x" % tuple(color) for color in head.colors] if head else [],
        input={"width": size[2], "height": size[1]} if size else None,
        channels=predictor.channels,
        precision=predictor.precision,
        fused=bool(settings.get("fuse")),
        device=str(predictor.device),
        parameters=sum(one.numel() for one in network.parameters()),
        stages=4,
        supports={"gradcam": predictor.task == "classification", "features": predictor.task == "classification"},
        top=predictor.top,
        min_score=predictor.min_score,
    )


def answer_for(image: Prepared, prediction: Prediction, features: Tensor | None) -> dict[str, Any]:
    """A prediction as JSON: the result's own values, and pixels as PNG."""
    answer = prediction.to_dict() | {"width": image.size[0], "height": image.size[1]}
    if isinstance(prediction, Segmentation) and prediction.classes is not None:
        answer["label_map"] = png(prediction.classes)
    if features is not None:
        answer["features"] = features.tolist()
    return answer


def png(labels: Tensor) -> str:
    """Class indices (H, W) as a grey PNG in base64, of 16 bits if there are more than 256."""
    deep = int(labels.max()) > 255
    image = Image.fromarray(labels.numpy().astype("uint16" if deep else "uint8"))
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
