"""RetinaNet as the released detectors have it (table III)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou, sigmoid_focal_loss

from transxnet.dense.detection.boxes import BestMatcher, ClampedBoxCoder, StrideAnchors
from transxnet.dense.detection.transform import DetectionTransform, Target
from transxnet.dense.head import Described
from transxnet.dense.pyramid import PyramidBackbone

ANSWERS: dict[str, Any] = {
    "score_thresh": 0.05,
    "nms_thresh": 0.5,
    "detections_per_img": 100,
    "topk_candidates": 1000,
}
"""How boxes become answers, in torchvision's words."""


def stride_anchors(strides: Sequence[int]) -> StrideAnchors:
    """Three sizes and three ratios for each place of each level.

    Args:
        strides: Of the pyramid's levels.
    """
    return StrideAnchors(strides, scales=[4 * 2 ** (octave / 3) for octave in range(3)])


class RetinaNet(Described, TorchvisionRetinaNet):
    """torchvision's RetinaNet with the released anchors, matching, losses and image sizes.

    Called with a list of images (3, H, W); in training also with targets (``boxes`` (n, 4) in
    pixels, ``labels`` (n) from 0), for a dictionary of losses; in evaluation, for a list of
    detections with ``boxes``, ``scores`` and ``labels``.

    Args:
        backbone: Backbone and pyramid of strides 8 to 128.
        num_classes: Classes.
        transform: Makes batches of images; the released rule if not given.
        norm_layer: Makes a normalisation for so many channels, for the towers; none if not given.
    """

    def __init__(
        self,
        backbone: PyramidBackbone,
        num_classes: int = 80,
        transform: DetectionTransform | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        anchors = stride_anchors(backbone.strides)
        count = anchors.num_anchors_per_location()[0]
        head = RetinaNetHead(backbone.out_channels, count, num_classes, norm_layer=norm_layer)
        super().__init__(
            backbone, num_classes, anchor_generator=anchors, head=head, proposal_matcher=BestMatcher(0.5, 0.4, 0.0),
            **ANSWERS,
        )  # fmt: skip
        self.box_coder = ClampedBoxCoder((1.0, 1.0, 1.0, 1.0))
        self.transform = transform or DetectionTransform()
        self._inside: list[Tensor] = []
        anchors.register_forward_hook(self._remember)

    def compute_loss(
        self, targets: list[Target], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """Focal loss and L1 on the codes, summed, over the images' positive anchors (at least one an image)."""
        focal, box, positives = [], [], 0
        for index, target in enumerate(targets):
            matched = self._matched(target["boxes"], anchors[index], self._inside[index])
            logits, codes = (head_outputs[name][index].float() for name in ("cls_logits", "bbox_regression"))
            positive, counted = matched >= 0, matched > self.proposal_matcher.BETWEEN_THRESHOLDS
            truth = matched[positive]
            wanted = torch.zeros_like(logits)
            wanted[positive, target["labels"][truth]] = 1
            focal.append(sigmoid_focal_loss(logits[counted], wanted[counted], reduction="sum"))
            aims = self.box_coder.encode_single(target["boxes"][truth], anchors[index][positive])
            box.append(F.l1_loss(codes[positive], aims, reduction="sum"))
            positives += max(int(positive.sum()), 1)
        return {
            "classification": torch.stack(focal).sum() / positives,
            "bbox_regression": torch.stack(box).sum() / positives,
        }

    def _matched(self, boxes: Tensor, anchors: Tensor, inside: Tensor) -> Tensor:
        """The ground truth of each anchor, -1 for none, -2 for anchors that are not counted. Shape: (anchors)."""
        matched = torch.full((len(anchors),), -2, dtype=torch.long, device=anchors.device)
        if len(boxes):
            matched[inside] = self.proposal_matcher(box_iou(boxes, anchors[inside]))
        else:
            matched[inside] = -1
        return matched

    def _remember(self, generator: Any, inputs: Any, output: Any) -> None:
        """Torchvision does not hand the images' sizes on to the loss."""
        if self.training:
            image_list, feature_maps = inputs
            self._inside = [generator.inside(size, feature_maps) for size in image_list.image_sizes]
