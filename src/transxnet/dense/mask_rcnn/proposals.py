"""The region proposal network as the released Mask R-CNN has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_iou

from transxnet.dense.anchors import BestMatcher, ClampedBoxCoder, StrideAnchors, at_least_float32
from transxnet.dense.detection_transform import Target

ANCHORS = 3
"""Anchors of each position: one size, three ratios."""


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's, with the released anchors, matching and losses; it drops boxes of no area only.

    Args:
        in_channels: Channels of the pyramid.
        strides: Of the pyramid's levels.
        head: From maps to scores and codes of the levels' anchors; torchvision's convolutions if not given.
    """

    def __init__(self, in_channels: int, strides: tuple[int, ...], head: nn.Module | None = None) -> None:
        anchors = StrideAnchors(strides, scales=[8])
        nothing_yet = {"training": 0, "testing": 0}
        super().__init__(
            anchors, head or RPNHead(in_channels, anchors.num_anchors_per_location()[0]), fg_iou_thresh=0.7,
            bg_iou_thresh=0.3, batch_size_per_image=256, positive_fraction=0.5, pre_nms_top_n=nothing_yet,
            post_nms_top_n=nothing_yet, nms_thresh=0.7,
        )  # fmt: skip
        self.set_proposals(1000)
        self.proposal_matcher = BestMatcher(0.7, 0.3, 0.3)
        self.box_coder = ClampedBoxCoder((1.0, 1.0, 1.0, 1.0))
        self.min_size = torch.finfo(torch.float32).tiny
        self._inside: list[Tensor] = []

    def set_proposals(self, count: int) -> None:
        """Propose so many regions of an image; they are chosen from as many of each level, in training from twice."""
        self._pre_nms_top_n = {"training": 2 * count, "testing": count}
        self._post_nms_top_n = {"training": count, "testing": count}

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals (n, 4) of each image, and in training the losses."""
        maps = list(features.values())
        self._inside = [self.anchor_generator.inside(size, maps) for size in images.image_sizes]
        return super().forward(images, features, targets)  # type: ignore[no-any-return]

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The best proposals of each image and their scores, in evaluation in float32 at least, where few are equal."""
        scores = objectness if self.training else at_least_float32(objectness)
        found: tuple[list[Tensor], list[Tensor]] = super().filter_proposals(
            proposals, scores, image_shapes, num_anchors_per_level
        )
        return found

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """For each anchor 1 (positive), 0 (negative) or -1 (not counted), and its ground truth's box."""
        labels, boxes = [], []
        for boxes_of_all, target, inside in zip(anchors, targets, self._inside, strict=True):
            label = torch.full((len(boxes_of_all),), -1.0, device=boxes_of_all.device)
            box = torch.zeros_like(boxes_of_all)
            if len(target["boxes"]):
                quality = box_iou(target["boxes"], boxes_of_all).masked_fill(~inside, -1.0)
                matched = self.proposal_matcher(quality)
                known = torch.where(matched >= 0, 1.0, torch.where(matched == -1, 0.0, -1.0))
                label = torch.where(inside, known, label)
                box = torch.where(inside[:, None], target["boxes"][matched.clamp(min=0)], box)
            else:
                label = label.masked_fill(inside, 0.0)
            labels.append(label)
            boxes.append(box)
        return labels, boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy and L1, over all sampled anchors."""
        chosen, negative = (torch.cat(parts).bool() for parts in self.fg_bg_sampler(labels))
        # Indices once, since a GPU is waited for.
        positive, sampled = torch.where(chosen)[0], torch.where(chosen | negative)[0]
        entropy = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled].float(), torch.cat(labels)[sampled])
        aims = torch.cat(regression_targets)[positive]
        box = F.l1_loss(pred_bbox_deltas[positive], aims, reduction="sum") / max(len(sampled), 1)
        return entropy, box
