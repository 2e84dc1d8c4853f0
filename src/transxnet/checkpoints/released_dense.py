"""Names of the released detectors and segmenters, as a pure map to torchvision's and ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from transxnet.checkpoints.released import MARKER, from_released

BODY = "backbone.body."
"""Where a backbone stands in our detectors and segmenters."""

_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
        (r"neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
        # Semantic FPN
        (r"decode_head\.conv_seg\.", "head.classifier."),
        (r"decode_head\.scale_heads\.(\d)\.(\d)\.conv\.", r"head.levels.\1.\2.0."),
        (r"decode_head\.scale_heads\.(\d)\.(\d)\.bn\.", r"head.levels.\1.\2.1."),
        # RetinaNet
        (r"bbox_head\.cls_convs\.(\d)\.conv\.", r"head.classification_head.conv.\1.0."),
        (r"bbox_head\.reg_convs\.(\d)\.conv\.", r"head.regression_head.conv.\1.0."),
        (r"bbox_head\.retina_cls\.", "head.classification_head.cls_logits."),
        (r"bbox_head\.retina_reg\.", "head.regression_head.bbox_reg."),
        # Mask R-CNN
        (r"rpn_head\.rpn_conv\.", "rpn.head.conv.0.0."),
        (r"rpn_head\.rpn_cls\.", "rpn.head.cls_logits."),
        (r"rpn_head\.rpn_reg\.", "rpn.head.bbox_pred."),
        (r"roi_head\.bbox_head\.shared_fcs\.0\.", "roi_heads.box_head.fc6."),
        (r"roi_head\.bbox_head\.shared_fcs\.1\.", "roi_heads.box_head.fc7."),
        (r"roi_head\.bbox_head\.fc_cls\.", "roi_heads.box_predictor.cls_score."),
        (r"roi_head\.bbox_head\.fc_reg\.", "roi_heads.box_predictor.bbox_pred."),
        (r"roi_head\.mask_head\.convs\.(\d)\.conv\.", r"roi_heads.mask_head.\1.0."),
        (r"roi_head\.mask_head\.upsample\.", "roi_heads.mask_predictor.conv5_mask."),
        (r"roi_head\.mask_head\.conv_logits\.", "roi_heads.mask_predictor.mask_fcn_logits."),
    )
)
# RetinaNet's pyramid has three levels of the backbone's and two of its own.
_EXTRA = {"backbone.fpn.layer_blocks.3.0.": "p6.", "backbone.fpn.layer_blocks.4.0.": "p7."}


def is_released_dense(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the names are a released detector's or segmenter's."""
    return f"backbone.{MARKER}" in state_dict


def from_released_dense(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of a released RetinaNet's, Mask R-CNN's or Semantic FPN's."""
    prefix = "backbone."
    body = from_released({n.removeprefix(prefix): t for n, t in state_dict.items() if n.startswith(prefix)})
    ours = {BODY + name: tensor for name, tensor in body.items()}
    retina = "bbox_head.retina_cls.weight" in state_dict
    for name, tensor in state_dict.items():
        if not name.startswith(prefix):
            new = _rename(name)
            for old, extra in _EXTRA.items() if retina else ():
                new = new.replace(old, f"backbone.fpn.extra_blocks.{extra}")
            ours[new] = _arranged(new, tensor)
    return ours


def _rename(name: str) -> str:
    for pattern, replacement in _RULES:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    return name


def _arranged(name: str, tensor: Tensor) -> Tensor:
    """Torchvision's class 0 is the background, which the released heads have last or not at all."""
    if name.startswith("roi_heads.box_predictor.cls_score."):
        return torch.cat([tensor[-1:], tensor[:-1]])
    if name.startswith("roi_heads.box_predictor.bbox_pred."):
        return torch.cat([tensor.new_zeros(4, *tensor.shape[1:]), tensor])
    if name.startswith("roi_heads.mask_predictor.mask_fcn_logits."):
        return torch.cat([tensor.new_zeros(1, *tensor.shape[1:]), tensor])
    return tensor
