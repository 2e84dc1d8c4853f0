"""Functions that the server's processes run: decoding images, and the network."""

from __future__ import annotations

import io
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from transxnet.api.batches import Request, predict_batch
from transxnet.api.prediction import Predictor
from transxnet.api.preparation import Preparation, Prepared
from transxnet.classification.labels import readable_names
from transxnet.data.images.reading import FORMATS, BadImageError, ImageSizeError, decode_image
from transxnet.errors import ConfigError
from transxnet.layers import is_fused
from transxnet.research.gradcam import find_class, grad_cam, stage_layer
from transxnet.research.networks import Network, stage_index
from transxnet.serve.answers import ModelDescription, answer_for, describe, grey_png
from transxnet.serve.faults import (
    InvalidParameterError,
    RequestFault,
    TooManyPixelsError,
    UnreadableImageError,
    UnsupportedTypeError,
)
from transxnet.text import unicode_text

_TOO_LARGE = "the image takes more memory to decode than it may; send a smaller one, or in another format"


@dataclass(frozen=True)
class Wanted:
    """Answer that is wanted for an image.

    Attributes:
        request: What the network's step gives.
        explain: "gradcam" for a heat map, or empty.
        stage: Stage of the heat map, from 1, or "last".
        label: Name or index of the class that it shows; the most probable one if empty.
    """

    request: Request = field(default_factory=Request)
    explain: str = ""
    stage: str = "last"
    label: str = ""


@dataclass(frozen=True)
class Opened:
    """A network that is served.

    Attributes:
        description: For clients.
        preparation: For the processes that decode.
    """

    description: ModelDescription
    preparation: Preparation


class NetworkState:
    """The state of a process with the network.

    Args:
        settings: Arguments of :class:`~transxnet.api.prediction.Predictor`.
        replicas: Number of such processes, which share the processor's cores.
        prepare: Import what heat maps need while nothing is asked yet: it takes seconds, for which the first one would
            hold up all other images.

    A classifier has computed an image before it is ready, since the first one takes longer than others. Detectors and
    segmenters have not: a step of theirs takes seconds, for which a start or restart would wait.
    """

    def __init__(self, settings: dict[str, Any], replicas: int = 1, prepare: bool = False) -> None:
        if replicas > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // replicas))
        self.settings = settings
        self.predictor = Predictor(**settings)
        self.predictor.network.eval()
        self.preparation = self.predictor.preparation
        self.described = Opened(describe(self.predictor, settings), self.preparation)
        if self.predictor.task == "classification":
            self._warm_up()
        if prepare and self.described.description.supports["gradcam"]:
            threading.Thread(target=import_module, args=["pytorch_grad_cam"], daemon=True).start()

    def _warm_up(self) -> None:
        height, width = vars(self.predictor.network)["pretrained_cfg"]["input_size"][1:]
        shape = (self.predictor.channels, height, width)
        predict_batch(self.predictor, [Prepared("", torch.zeros(shape), (width, height), shape)], [Request()])

    @cached_property
    def differentiable(self) -> Network:
        """The network in float32 and as it was trained, which gives gradients; opened at the first use."""
        predictor = self.predictor
        if is_fused(predictor.network) or predictor.precision != "float32":
            predictor = Predictor(**{**self.settings, "fuse": False, "precision": "32"})
        return Network("the network", "", predictor.network.eval(), trained=True)


class DecodingState:
    """The state of a process that decodes.

    Args:
        preparation: What makes images ready.
        max_pixels: Pixels of an image beyond which it is not decoded.
        memory: Bytes that may be allocated for an image, where the system can limit them (Linux).
    """

    described = None

    def __init__(self, preparation: Preparation, max_pixels: int, memory: int) -> None:
        torch.set_num_threads(1)
        self.preparation = preparation
        self.max_pixels = max_pixels
        self._warm_up()
        limit_memory(memory)

    def _warm_up(self) -> None:
        """Load what the first image would wait for."""
        Image.init()
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG")
        with suppress(RequestFault):  # the network may take other bands
            decode(self, "", file.getvalue())


def limit_memory(count: int) -> None:
    """Let this process allocate no more than some further bytes, where the system can limit that (Linux).

    Address space that is only reserved, as for threads, does not count.
    """
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[5])
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [one for one in (soft, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([pages * resource.getpagesize() + count, *limits]), hard))


def decode(state: DecodingState, name: str, content: bytes) -> Prepared:
    """Decode and prepare an image.

    Raises:
        UnsupportedTypeError: If it is of no kind that is read.
        TooManyPixelsError: If its header states too many pixels; they are not decoded.
        UnreadableImageError: If it cannot be used otherwise.
    """
    try:
        return state.preparation(name, decode_image(name, content, state.max_pixels))
    except MemoryError as error:
        raise UnreadableImageError(_TOO_LARGE) from error
    except ImageSizeError as error:
        raise TooManyPixelsError(f"the image has {error.reason}; send a smaller one") from error
    except BadImageError as error:
        if isinstance(error.__cause__, MemoryError):
            raise UnreadableImageError(_TOO_LARGE) from error
        if not isinstance(error.__cause__, UnidentifiedImageError):
            raise UnreadableImageError(f"the image cannot be used: {error.reason}") from error
        if is_known(content):
            raise UnreadableImageError("the image cannot be used: its header is damaged") from error
        kinds = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise UnsupportedTypeError(f"this is not an image that can be read; send {kinds}") from error


def is_known(content: bytes) -> bool:
    """Whether bytes begin as an image of a kind that is read."""
    start = content[:16].ljust(16, b"\0")
    accepts = [Image.OPEN[kind][1] for kind in FORMATS if kind in Image.OPEN]
    return any(accept is not None and accept(start) is True for accept in accepts)


def predict(state: NetworkState, images: list[Prepared], wanted: list[Wanted]) -> list[dict[str, Any]]:
    """Answers for images of one group, as :mod:`transxnet.serve.answers` describes them."""
    found = predict_batch(state.predictor, images, [one.request for one in wanted])
    count = len(state.predictor.class_names)
    return [answer_for(image, *each, count) for image, each in zip(images, found, strict=True)]


def explain(state: NetworkState, images: list[Prepared], wanted: list[Wanted]) -> list[dict[str, Any]]:
    """Heat maps as JSON, each computed on its own.

    Raises:
        InvalidParameterError: If there is no such stage or class.
    """
    return [_explained(state, image, one) for image, one in zip(images, wanted, strict=True)]


def _explained(state: NetworkState, image: Prepared, wanted: Wanted) -> dict[str, Any]:
    network = state.differentiable
    model: Any = network.model
    try:
        stage = stage_index(model, wanted.stage)
        layer, _ = stage_layer(network, wanted.stage)
        target = find_class(network, wanted.label or None)
    except ConfigError as error:
        raise InvalidParameterError(str(error)) from error
    pixels = image.pixels[None].to(state.predictor.device)
    with torch.inference_mode():
        probabilities = model(pixels).softmax(dim=1)[0]
    chosen = int(probabilities.argmax()) if target is None else target
    values = grad_cam(model, layer, pixels, chosen)
    return {
        "stage": stage,
        "class": unicode_text(readable_names(model)[chosen]),
        "probability": float(probabilities[chosen]),
        "png": grey_png(np.asarray((values * 255).round(), dtype=np.uint8)),
        "area": list(state.preparation.area(image.size)),
    }
