"""A network as one graph of PyTorch's operators, for any batch, height and width."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from transxnet.dense.protocol import DenseNetwork
from transxnet.errors import ConfigError
from transxnet.files import reason
from transxnet.inference.description import SMALLEST
from transxnet.inference.fuse import fuse
from transxnet.model import is_fused

NOT_EXPORTED = {"token_mixer": ("swin", "mixing_block", "acmix"), "local_operator": ("window_attention",)}
"""Parts with windows, which PyTorch cannot trace for images of every size."""


class Graph(nn.Module):
    """The exported part of a network: tensors in, tensors out, in float32 whatever is between.

    Args:
        network: Fused.
        dtype: Type that it computes in.
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
    (B, classes, H, W); or to those of a detector's exported form.
    """
    if isinstance(network, DenseNetwork):
        return network.export_form.run(network, images)
    outputs: Any = network(images)
    return tuple(outputs) if isinstance(outputs, list | tuple) else (outputs,)


def trace_part(model: DenseNetwork, part: str, dtype: torch.dtype = torch.float32) -> torch.export.ExportedProgram:
    """Trace a part that is exported to a file of its own, for any number of regions (R, C, side, side).

    Args:
        model: In evaluation mode, not fused.
        part: Name of the part, of the network's exported form.
        dtype: Type that it computes in.
    """
    form = model.export_form
    graph = Graph(copy.deepcopy(form.part(model, part)).cpu().requires_grad_(False), dtype)
    side = form.parts[part].side
    example = torch.zeros(2, model.backbone.out_channels, side, side)
    shapes = {"images": {0: torch.export.Dim("regions", min=1)}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(graph, (example,), dynamic_shapes=shapes)


def trace(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.export.ExportedProgram:
    """Trace a network for all batches and sizes; every format is made from the program.

    Args:
        model: A network in evaluation mode, not fused. Parts with files of their own are left out.
        dtype: Type that it computes in; inputs and outputs are float32.

    Raises:
        ConfigError: If the network is in training mode or fused already.
    """
    check_model(model)
    fused = fuse(model, idconv="products", dynamic_size=True).cpu()
    if isinstance(fused, DenseNetwork):  # programs keep weights that they do not use
        fused = fused.export_form.without_parts(fused)
    channels = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels
    stride = max(model.backbone.strides[-1], SMALLEST) if isinstance(model, DenseNetwork) else SMALLEST
    side = stride + 1  # PyTorch takes 1 for fixed, also where it is the last map's side
    shapes = {
        0: torch.export.Dim("batch", min=1),
        2: torch.export.Dim("height", min=side),
        3: torch.export.Dim("width", min=side),
    }
    example = torch.zeros(2, channels, 3 * stride, 2 * stride)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(Graph(fused, dtype), (example,), dynamic_shapes={"images": shapes})
        except Exception as error:  # PyTorch raises many classes for what it cannot follow
            raise ConfigError(
                f"PyTorch cannot trace this network for images of every size ({reason(error)})"
            ) from error
    for symbol, bounds in program.range_constraints.items():
        if bounds.lower == side:  # the operators take a last map of 1 x 1, as the check shows
            program.range_constraints[symbol] = type(bounds)(SMALLEST, bounds.upper)
    return program


def check_model(model: nn.Module) -> None:
    """Raise ConfigError if a network is in training mode, fused already, or has parts that cannot be exported."""
    if not isinstance(model, nn.Module):
        raise ConfigError(f"export takes a network, not {type(model).__name__}")
    if is_fused(model):
        raise ConfigError("the network is fused already; export the one that it was made from")
    if model.training:
        raise ConfigError("the network is in training mode; call .eval() before the export")
    config: Any = getattr(model.backbone.body if isinstance(model, DenseNetwork) else model, "config", None)
    for name, parts in NOT_EXPORTED.items():
        if (part := getattr(config, name, None)) in parts:
            raise ConfigError(f"networks with {name}={part!r} cannot be exported: windows need a size that is fixed")
