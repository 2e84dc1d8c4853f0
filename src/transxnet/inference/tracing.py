"""A network as one graph of PyTorch's operators, for any batch, height and width."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from transxnet.dense.detection.mask_rcnn import MaskRCNN
from transxnet.dense.detection.retinanet import RetinaNet
from transxnet.errors import ConfigError
from transxnet.inference.description import PARTS, SMALLEST
from transxnet.inference.fuse import fuse
from transxnet.model import is_fused


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
    (B, classes, H, W); or to scores (B, anchors, classes) and codes (B, anchors, 4). Mask R-CNN's
    first stage gives the maps that regions are pooled from before those two, of one class.
    """
    if isinstance(network, RetinaNet):
        answers = network.head(list(network.backbone(images).values()))
        return answers["cls_logits"], answers["bbox_regression"]
    if isinstance(network, MaskRCNN):
        maps = list(network.backbone(images).values())
        scores, codes = network.rpn.head(maps)
        return (*maps[:-1], _of_anchors(scores, 1), _of_anchors(codes, 4))
    outputs: Any = network(images)
    return tuple(outputs) if isinstance(outputs, list | tuple) else (outputs,)


def _of_anchors(levels: list[Tensor], values: int) -> Tensor:
    """Maps (B, A * values, H_i, W_i) of several levels to (B, anchors, values), row by row."""
    parts = [level.unflatten(1, (-1, values)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in levels]
    return torch.cat(parts, dim=1)


def head_of(model: nn.Module, part: str) -> nn.Module:
    """A head of Mask R-CNN's second stage, from pooled regions to its outputs; ``part`` is of ``PARTS``."""
    heads: Any = model.roi_heads
    if part == "boxes":
        return nn.Sequential(heads.box_head, heads.box_predictor)
    return nn.Sequential(heads.mask_head, heads.mask_predictor)


def trace_head(model: MaskRCNN, part: str, dtype: torch.dtype = torch.float32) -> torch.export.ExportedProgram:
    """One program for any number of regions (R, C, side, side).

    Args:
        model: In evaluation mode, not fused.
        part: Which head, of ``PARTS``.
        dtype: What it computes in.
    """
    graph = Graph(copy.deepcopy(head_of(model, part)).cpu().requires_grad_(False), dtype)
    side = PARTS[part].side
    example = torch.zeros(2, model.backbone.out_channels, side, side)
    shapes = {"images": {0: torch.export.Dim("regions", min=1)}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(graph, (example,), dynamic_shapes=shapes)


def trace(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.export.ExportedProgram:
    """One program for all batches and sizes, from which every format is made; of Mask R-CNN its first stage.

    Args:
        model: A network of this package in evaluation mode, not fused.
        dtype: What it computes in; inputs and outputs are float32.

    Raises:
        ConfigError: If the network is in training mode or fused already.
    """
    check_model(model)
    fused = fuse(model, idconv="products", dynamic_size=True).cpu()
    if isinstance(fused, MaskRCNN):
        fused.roi_heads = nn.Identity()  # traced by trace_head; programs keep weights that they do not use
    channels = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels
    stride = max(model.backbone.strides[-1], SMALLEST) if isinstance(model, RetinaNet | MaskRCNN) else SMALLEST
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
    if is_fused(model):
        raise ConfigError("the network is fused already; export the one that it was made from")
    if model.training:
        raise ConfigError("the network is in training mode; call .eval() before the export")
