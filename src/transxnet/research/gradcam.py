"""Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), as of figure 7 of the paper: where a stage finds a class."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from transxnet.classification.labels import label_names, readable_names
from transxnet.data.examples import Example
from transxnet.data.transforms import evaluation_transform
from transxnet.errors import ConfigError
from transxnet.model import TransXNet
from transxnet.research.networks import Network, stage_index, stage_names


@dataclass(frozen=True)
class ActivationMap:
    """Where a layer of a network finds a class in an image.

    Attributes:
        network: Whose.
        place: The stage or layer, for people.
        picture: What the network saw, (H, W, 3), from 0 to 1.
        values: (H, W), from 0 to 1, the largest is 1; all 0 where nothing speaks for the class.
        target: Index of the class.
        class_name: What it is called.
        probability: What the network gives it.
    """

    network: Network
    place: str
    picture: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]
    target: int
    class_name: str
    probability: float


def find_class(network: Network, wanted: str | None) -> int | None:
    """The index of a class given by its name, WordNet id or index; None if none is given.

    Raises:
        ConfigError: If the network has no such class.
    """
    if wanted is None:
        return None
    model = cast(TransXNet, network.model)
    count = model.num_classes
    for names in (label_names(model), readable_names(model)):
        lowered = [name.lower() for name in names]
        if wanted.lower() in lowered:
            return lowered.index(wanted.lower())
    if wanted.isdecimal() and len(wanted) < 10 and int(wanted) < count:
        return int(wanted)
    near = difflib.get_close_matches(wanted, readable_names(model), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"classes are names or 0 to {count - 1}"
    raise ConfigError(f"{network.name} has no class {wanted!r}; {hint}")


def stage_layer(network: Network, stage: str) -> tuple[str, str]:
    """The layer whose output stands for a stage ("last" or a number from 1), and what to call it.

    It is the stage's output, before any final normalisation: the layer with the same meaning in
    every stage and network. In a vision transformer that classifies by a token of its own, the
    last block's patches have no gradient, so it is the first normalisation of the block.
    """
    index = stage_index(network.model, stage)
    name = stage_names(network.model)[index]
    if getattr(network.model, "num_prefix_tokens", 0):
        name += ".norm1"
    return name, f"stage {index}"


def activation_maps(
    network: Network, example: Example, layers: list[tuple[str, str]], target: int | None, device: str = "cpu"
) -> list[ActivationMap]:
    """Grad-CAM of one image for some layers.

    Args:
        network: A classifier; it is moved to the device.
        example: The image; it is resized and cropped as for the network's evaluation.
        layers: Names of modules that give out maps, and what to call them.
        target: Index of the class; None for the most probable one.
        device: PyTorch's name of a device.

    Raises:
        BadImageError: If the image cannot be read.
        ConfigError: If a layer does not exist or gives out no map.
    """
    model = network.model.eval().to(device)
    described = vars(model)["pretrained_cfg"]
    image: Any = evaluation_transform(described)(example.read())
    with torch.inference_mode():
        probabilities = model(image[None].to(device)).softmax(dim=1)[0]
    chosen = int(probabilities.argmax()) if target is None else target
    deviation, mean = (torch.tensor(described[name]).view(-1, 1, 1) for name in ("std", "mean"))
    shown = (image * deviation + mean).clamp(0, 1).permute(1, 2, 0).expand(-1, -1, 3).numpy()
    name = readable_names(cast(TransXNet, model))[chosen]
    return [
        ActivationMap(network, place, shown, grad_cam(model, layer, image[None].to(device), chosen), chosen, name,
                      float(probabilities[chosen]))
        for layer, place in layers
    ]  # fmt: skip


def grad_cam(model: nn.Module, layer: str, image: Tensor, target: int) -> npt.NDArray[np.float32]:
    """Grad-CAM of a layer.

    The channels of the layer's output are summed, each weighted with the mean over its places of
    the gradient of the class's score; what is negative becomes 0; the result is scaled to [0, 1] and
    resized bilinearly to the image.

    Args:
        model: A classifier in evaluation mode.
        layer: Name of a module that gives out (1, C, h, w), (1, h, w, C) or (1, n, C), h and w being
            in the image's proportion; of n tokens, those at the end are the places.
        image: (1, C, H, W), normalised.
        target: Index of the class.

    Returns:
        (H, W), from 0 to 1.
    """
    modules = dict(model.named_modules())
    if layer not in modules:
        near = difflib.get_close_matches(layer, modules, 1)
        raise ConfigError(f"there is no layer {layer!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    shape = _output_shape(model, modules[layer], image)
    if shape is None:
        raise ConfigError(f"layer {layer!r} gives out no tensor; name another layer")
    prefix = int(getattr(model, "num_prefix_tokens", 0))

    def as_nchw(output: Tensor) -> Tensor:
        return _as_nchw(output, image.shape[2] / image.shape[3], prefix, layer)

    as_nchw(torch.empty(shape))  # says what is wrong before anything is computed
    with GradCAM(model, [modules[layer]], reshape_transform=as_nchw) as method:
        values: npt.NDArray[np.float32] = method(image, [ClassifierOutputTarget(target)])[0]
    model.zero_grad()
    return values


def _output_shape(model: nn.Module, layer: nn.Module, image: Tensor) -> torch.Size | None:
    shapes = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        shapes.append(output.shape if isinstance(output, Tensor) else None)

    hook = layer.register_forward_hook(note)
    try:
        with torch.no_grad():
            model(image)
    finally:
        hook.remove()
    return shapes[-1] if shapes else None


def _as_nchw(output: Tensor, proportion: float, prefix: int, layer: str) -> Tensor:
    if output.ndim == 4:
        by_order = ((output, output.shape[2:]), (output.permute(0, 3, 1, 2), output.shape[1:3]))
        for ordered, (height, width) in by_order:
            if height == math.ceil(width * proportion) or width == math.ceil(height / proportion):
                return ordered
    if output.ndim == 3:
        places = output.shape[1] - prefix
        width = round(math.sqrt(places / proportion))
        if width and places % width == 0 and round(width * proportion) == places // width:
            tokens = output[:, output.shape[1] - places :].transpose(1, 2)  # (B, C, N)
            map_: Tensor = tokens.unflatten(2, (places // width, width))
            return map_
    raise ConfigError(f"layer {layer!r} gives out {tuple(output.shape)}, which is no map of the image")
