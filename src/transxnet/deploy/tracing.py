"""A network as one graph of PyTorch's operators, for any batch, height and width."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from transxnet.dense.detection.retinanet import RetinaNet
from transxnet.deploy.description import SMALLEST
from transxnet.deploy.fuse import fuse
from transxnet.errors import ConfigError


class Graph(nn.Module):
    """What of a network is exported: tensors in, tensors out, in float32 whatever is between.

    Args:
        network: Fused.
        dtype: What it computes in.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Shapes: (B, C, H, W) to those of the outputs."""
        return tuple(output.float() for output in outputs_of(self.network, images.to(self.dtype)))


def outputs_of(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """The tensors that an exported network gives.

    Shapes: (B, C, H, W) to scores (B, classes); to maps (B, C_i, H_i, W_i); to scores of pixels
    (B, classes, H, W); or to scores (B, anchors, classes) and codes (B, anchors, 4).
    """
    if isinstance(network, RetinaNet):
        answers = network.head(list(network.backbone(images).values()))
        return answers["cls_logits"], answers["bbox_regression"]
    outputs: Any = network(images)
    return tuple(outputs) if isinstance(outputs, list | tuple) else (outputs,)


def trace(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.export.ExportedProgram:
    """One program for all batches and sizes, from which every format is made.

    Args:
        model: A network of this package in evaluation mode, not fused.
        dtype: What it computes in; inputs and outputs are float32.

    Raises:
        ConfigError: If the network is in training mode or fused already.
    """
    check_model(model)
    fused = fuse(model, idconv="products", dynamic_size=True).cpu()
    channels = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels
    stride = model.backbone.strides[-1] if isinstance(model, RetinaNet) else SMALLEST
    side = stride + 1  # PyTorch takes 1 for fixed, also where it is the last map's side
    shapes = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=side),
        3: torch.export.Dim("width", min=side),
    }
    example = torch.zeros(2, channels, 3 * stride, 2 * stride)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Graph(fused, dtype), (example,), dynamic_shapes={"images": shapes})
    for symbol, bounds in program.range_constraints.items():
        if bounds.lower == side:  # the operators do not mind a last map of 1 x 1, as the check shows
            program.range_constraints[symbol] = type(bounds)(SMALLEST, bounds.upper)
    return program


def check_model(model: nn.Module) -> None:
    """Raise ConfigError if a network is in training mode or fused already."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"export takes a network, not {type(model).__name__}")
    if hasattr(model, "left"):  # of fuse
        raise ConfigError("the network is fused already; export the one that it was made from")
    if model.training:
        raise ConfigError("the network is in training mode; call .eval() before the export")
