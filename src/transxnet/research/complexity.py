"""Counting parameters and multiply-accumulate operations (MACs), all of them or by the paper's rule."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transxnet.dense.mask_rcnn import MaskRCNN
from transxnet.dense.protocol import Detector
from transxnet.layers import BatchNorm2d, GroupNorm, LayerScale, PositionBias
from transxnet.model import Block


@dataclass(frozen=True)
class Complexity:
    """The cost of a network for one image.

    Attributes:
        parameters: All parameters, position biases included.
        macs: MACs of all convolutions and matrix products, including those inside attention and IDConv,
            and of layer scales.
        paper_macs: The paper's "FLOPs": MACs of the modules called in a forward pass. Convolutions
            count their bias, normalisations twice their input, pooling its input. Functions do not
            count: products inside attention, dynamic convolution, activations other than the ReLU
            module.
    """

    parameters: int
    macs: int
    paper_macs: int


Rule = tuple[type[nn.Module], ...]
"""Types of the modules that the paper counts."""

_BATCH_NORMS: Rule = (nn.BatchNorm2d, BatchNorm2d)
_NORMS: Rule = (*_BATCH_NORMS, nn.GroupNorm, GroupNorm, nn.LayerNorm)
CLASSIFIER: Rule = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, *_NORMS, nn.AdaptiveAvgPool2d, nn.ReLU)
"""The paper's rule for classifiers."""
DENSE: Rule = tuple(kind for kind in CLASSIFIER if kind not in _BATCH_NORMS)
"""The paper's rule for detectors and segmenters, whose synchronised batch norms its counter did not know."""


def complexity(model: nn.Module, input_size: tuple[int, int, int], rule: Rule = CLASSIFIER) -> Complexity:
    """Count a network for an input of (channels, height, width).

    Counting runs on PyTorch's meta device in evaluation mode, on a copy if the network is elsewhere.

    Args:
        model: A network for images (B, channels, H, W).
        input_size: Channels, height and width.
        rule: :data:`CLASSIFIER`, or :data:`DENSE` for a backbone or a segmenter.
    """
    return count(model, lambda meta: meta(torch.empty(1, *input_size, device="meta")), rule)


def count(model: nn.Module, run: Callable[[Any], Any], rule: Rule) -> Complexity:
    """Count the operations of a function of a network.

    Args:
        model: The network; if it is not on the meta device, a copy is used.
        run: Called with the network in evaluation mode; the modules that it calls are counted.
        rule: Types of the modules that the paper counts.
    """
    on_meta = all(parameter.is_meta for parameter in model.parameters())
    meta = model if on_meta else copy.deepcopy(model).to("meta")
    modes = [(module, module.training) for module in meta.modules()]
    hooks = []
    meta.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as flops:
            tally = _Tally(flops)
            for module in meta.modules():
                if isinstance(module, (*rule, LayerScale)):
                    hooks.append(module.register_forward_hook(tally.add))
                if isinstance(module, Block):
                    vars(module)["forward"] = partial(tally.once, repr(module), module.forward)
                if isinstance(module, PositionBias):  # resizing it does not count, and is slow
                    vars(module)["forward"] = partial(_bias_for, module)
            run(meta)
            paper, macs = tally.total()
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
            vars(module).pop("forward", None)
    return Complexity(sum(parameter.numel() for parameter in meta.parameters()), macs, paper)


def _bias_for(bias: PositionBias, x: Tensor) -> Tensor:
    """An empty bias for a map (B, C, H, W). Shape: (1, heads, N, M)."""
    height, width = x.shape[2:]
    keys = -(-height // bias.reduction) * -(-width // bias.reduction)
    return torch.empty(1, bias.table.shape[1], height * width, keys, device="meta")


class _Tally:
    """Sums of the modules' counts; equal blocks of a stage are run once and counted each time."""

    def __init__(self, flops: FlopCounterMode) -> None:
        self._flops = flops
        self._paper = 0
        self._macs = 0  # in addition to the FLOP counter's
        self._known: dict[Any, tuple[int, int]] = {}

    def add(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook of the counted modules."""
        if isinstance(module, LayerScale):
            self._macs += output.numel()
        else:
            self._paper += _module_macs(module, inputs[0], output)

    def once(self, structure: str, forward: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
        """Replacement of a block's forward pass, which keeps the shape of ``x``."""
        key = (structure, x.shape)
        if key in self._known:
            paper, macs = self._known[key]
            self._paper += paper
            self._macs += macs
            return x
        before = self.total()
        x = forward(x, *others)
        after = self.total()
        self._known[key] = (after[0] - before[0], after[1] - before[1])
        return x

    def total(self) -> tuple[int, int]:
        """The paper's MACs, and all MACs."""
        return self._paper, int(self._flops.get_total_flops()) // 2 + self._macs


def detector_complexity(
    detector: Detector, size: tuple[int, int] = (800, 1280), boxes: int = 1000, masks: int = 100
) -> Complexity:
    """Count a detector as in Table III: from the backbone to its heads' outputs.

    For Mask R-CNN's second stage, the paper counts the box head on 1000 regions and the mask head on
    100. It is counted in the released form: see :func:`_as_released`.

    Args:
        detector: From :func:`transxnet.create_detector`.
        size: Height and width of the padded image.
        boxes: Regions of the box head.
        masks: Regions of the mask head.
    """
    image = torch.empty(1, 3, *size, device="meta")
    if not isinstance(detector, MaskRCNN):
        return count(detector, lambda meta: meta.export_form.run(meta, image), DENSE)

    def run(meta: MaskRCNN) -> None:
        heads = meta.roi_heads
        meta.rpn.head(list(meta.backbone(image).values()))
        channels = meta.backbone.out_channels
        box = heads.box_head(torch.empty(boxes, channels, 7, 7, device="meta"))
        mask = heads.mask_head(torch.empty(masks, channels, 14, 14, device="meta"))
        heads.box_predictor(box), heads.mask_predictor(mask)

    return count(_as_released(detector), run, DENSE)


def _as_released(detector: MaskRCNN) -> MaskRCNN:
    """The detector with the outputs and ReLU modules of the released one, for counting only.

    Torchvision's box and mask predictors also have outputs for the background. Its proposal head uses
    a module for ReLU where the released one uses a function, and its box head the reverse.
    """
    detector = copy.deepcopy(detector).to("meta")
    proposals, heads = detector.rpn.head, detector.roi_heads
    boxes, masks = heads.box_predictor, heads.mask_predictor
    classes = boxes.cls_score.out_features - 1
    boxes.bbox_pred = nn.Linear(boxes.bbox_pred.in_features, 4 * classes, device="meta")
    masks.mask_fcn_logits = nn.Conv2d(masks.mask_fcn_logits.in_channels, classes, 1, device="meta")
    proposals.conv = proposals.conv[0][0]
    box = heads.box_head
    heads.box_head = nn.Sequential(nn.Flatten(), box.fc6, nn.ReLU(), box.fc7, nn.ReLU())
    return detector


def _module_macs(module: nn.Module, given: Tensor, output: Tensor) -> int:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # Each output of a convolution gathers a kernel; each input of a transposed one scatters a kernel.
        transposed = isinstance(module, nn.ConvTranspose2d)
        values, others = (given, module.out_channels) if transposed else (output, module.in_channels)
        kernel = module.kernel_size[0] * module.kernel_size[1] * others // module.groups
        return values.numel() * kernel + (output.numel() if module.bias is not None else 0)
    if isinstance(module, nn.Linear):
        return given.numel() * module.out_features
    if isinstance(module, _NORMS):
        return 2 * given.numel()
    return output.numel() if isinstance(module, nn.ReLU) else given.numel()
