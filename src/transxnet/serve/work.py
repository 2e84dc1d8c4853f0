"""What the server's processes run: decoding images, and the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from transxnet.api.batches import Request, predict_batch
from transxnet.api.prediction import Predictor
from transxnet.api.preparation import Preparation, Prepared
from transxnet.data.images.reading import BadImageError, decode_image
from transxnet.serve.answers import ModelDescription, answer_for, describe
from transxnet.serve.faults import UnreadableImageError


@dataclass(frozen=True)
class Wanted:
    """What is wanted for an image beside the plain prediction.

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
    """What the server knows of its network.

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
        threads: Threads that it computes with; PyTorch's default if None.
    """

    def __init__(self, settings: dict[str, Any], threads: int | None = None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.settings = settings
        self.predictor = Predictor(**settings)
        self.predictor.network.eval()
        self.described = Opened(describe(self.predictor, settings), self.predictor.preparation)


class DecodingState:
    """The state of a process that decodes.

    Args:
        preparation: What makes images ready.
        max_pixels: Pixels of an image beyond which it is not decoded.
    """

    described = None

    def __init__(self, preparation: Preparation, max_pixels: int) -> None:
        torch.set_num_threads(1)
        self.preparation = preparation
        self.max_pixels = max_pixels


def decode(state: DecodingState, name: str, content: bytes) -> Prepared:
    """Decode and prepare an image; raises UnreadableImageError and so on for one that cannot be used."""
    try:
        return state.preparation(name, decode_image(name, content))
    except BadImageError as error:
        raise UnreadableImageError(f"the image cannot be used: {error.reason}") from error


def predict(state: NetworkState, images: list[Prepared], wanted: list[Wanted]) -> list[dict[str, Any]]:
    """Answers for images of one group, as :mod:`transxnet.serve.answers` describes them."""
    found = predict_batch(state.predictor, images, [one.request for one in wanted])
    return [answer_for(image, *each) for image, each in zip(images, found, strict=True)]
