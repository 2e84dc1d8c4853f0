"""Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), as in figure 7 of the paper."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from transxnet.classification.labels import label_names, readable_names
from transxnet.data.examples import Example
from transxnet.data.transforms import evaluation_transform, normalisation
from transxnet.errors import ConfigError
from transxnet.extras import require
from transxnet.model import TransXNet
from transxnet.research.networks import Network, moved, stage_index, stage_names


@dataclass(frozen=True)
class ActivationMap:
    """Evidence for a class in the output of a layer.

    Attributes:
        network: The network.
        layer: The stage or layer, for display.
        picture: The network's input, (H, W, 3), from 0 to 1.
        values: (H, W), from 0 to 1, with a maximum of 1; all 0 if there is no evidence for the class.
        target: Index of the class.
        class_name: Name of the class.
        probability: The network's probability of the class.
    """

    network: Network
    layer: str
    picture: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]
    target: int
    class_name: str
    probability: float


def find_class(network: Network, label: str | None) -> int | None:
    """The index of a class given by name, WordNet id or index; None for None.

    Raises:
        ConfigError: If the network has no such class.
    """
    if label is None:
        return None
    model = cast(TransXNet, network.model)
    count = model.num_classes
    for names in (label_names(model), readable_names(model)):
        lowered = [name.lower() for name in names]
        if label.lower() in lowered:
            return lowered.index(label.lower())
    if label.isdecimal() and len(label) < 10 and int(label) < count:
        return int(label)
    near = difflib.get_close_matches(label, readable_names(model), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"classes are names or 0 to {count - 1}"
    raise ConfigError(f"{network.name} has no class {label!r}; {hint}")


def stage_layer(network: Network, stage: str) -> tuple[str, str]:
    """The layer of a stage ("last" or a number from 1), and its name for display.

    It is the stage's output before any final normalisation, which means the same in every stage and
    network. In a vision transformer with a class token, the last block's patches have no gradient, so
    it is the first normalisation of the block.
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
        network: A classifier, which is moved to the device.
        example: The image, which is preprocessed as for the network's evaluation.
        layers: Names of modules that return maps, with names for display.
        target: Index of the class; None for the most probable one.
        device: PyTorch's name of a device.

    Raises:
        BadImageError: If the image cannot be read.
        ConfigError: If a layer does not exist or does not return a map.
    """
    model = moved(network.model.eval(), device)
    config = vars(model)["pretrained_cfg"]
    image: Any = evaluation_transform(config)(example.read())
    with torch.inference_mode():
        probabilities = model(image[None].to(device)).softmax(dim=1)[0]
    chosen = int(probabilities.argmax()) if target is None else target
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in normalisation(config))
    bands = (image * deviation + mean)[: 3 if len(image) >= 3 else 1]
    picture = bands.clamp(0, 1).permute(1, 2, 0).expand(-1, -1, 3).numpy()
    name = readable_names(cast(TransXNet, model))[chosen]
    return [
        ActivationMap(network, title, picture, grad_cam(model, layer, image[None].to(device), chosen), chosen, name,
                      float(probabilities[chosen]))
        for layer, title in layers
    ]  # fmt: skip


def grad_cam(model: nn.Module, layer: str, image: Tensor, target: int) -> npt.NDArray[np.float32]:
    """Grad-CAM of a layer.

    The channels of the layer's output are summed, each weighted with its mean gradient of the class's
    score; negative values become 0; the result is scaled to [0, 1] and resized bilinearly to the image.

    Args:
        model: A classifier in evaluation mode.
        layer: Name of a module that returns (1, C, h, w), (1, h, w, C) or (1, n, C), with h and w in the
            image's aspect ratio; of n tokens, the last h * w are the map.
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
        raise ConfigError(f"layer {layer!r} does not return a tensor; name another layer")
    prefix = int(getattr(model, "num_prefix_tokens", 0))

    def as_nchw(output: Tensor) -> Tensor:
        return _as_nchw(output, image.shape[2] / image.shape[3], prefix, layer)

    as_nchw(torch.empty(shape))  # raises errors before anything is computed
    require("Grad-CAM", "analysis", "grad-cam")
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

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


def _as_nchw(output: Tensor, aspect: float, prefix: int, layer: str) -> Tensor:
    if output.ndim == 4:
        by_order = ((output, output.shape[2:]), (output.permute(0, 3, 1, 2), output.shape[1:3]))
        for ordered, (height, width) in by_order:
            if height == math.ceil(width * aspect) or width == math.ceil(height / aspect):
                return ordered
    if output.ndim == 3:
        count = output.shape[1] - prefix
        width = round(math.sqrt(count / aspect))
        if width and count % width == 0 and round(width * aspect) == count // width:
            tokens = output[:, output.shape[1] - count :].transpose(1, 2)  # (B, C, N)
            map_: Tensor = tokens.unflatten(2, (count // width, width))
            return map_
    raise ConfigError(f"layer {layer!r} returns {tuple(output.shape)}, which is not a map of the image")
