"""The second stage of Mask R-CNN: pooling, classes, boxes and masks of regions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, roi_align

from transxnet.dense.anchors import BestMatcher, ClampedBoxCoder, at_least_float32
from transxnet.dense.detection_transform import Target

BOX_SIDE, MASK_SIDE = 7, 14
"""Sides of the pooled regions that the box head and the mask head take."""

MASK_OUTPUT_SIDE = 28
"""Side of the mask head's output."""


class AlignedPooler(MultiScaleRoIAlign):
    """RoIAlign with half-pixel alignment and as many samples as a bin has pixels.

    Args:
        strides: Of the levels it takes regions from.
        output_size: Side of a pooled region.
    """

    def __init__(self, strides: tuple[int, ...], output_size: int) -> None:
        super().__init__([str(level) for level in range(len(strides))], output_size, sampling_ratio=0)
        self.strides = strides

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]] | None = None
    ) -> Tensor:
        """Shapes: maps (B, C, H, W) and boxes (n_i, 4) in input pixels to (sum of n_i, C, side, side)."""
        maps = [x[name] for name in self.featmap_names]
        regions = torch.cat([F.pad(box, (1, 0), value=index) for index, box in enumerate(boxes)])
        side = ((regions[:, 3] - regions[:, 1]) * (regions[:, 4] - regions[:, 2])).clamp(min=0).sqrt()
        level = torch.log2(side / 56 + 1e-6).floor().clamp(0, len(maps) - 1).nan_to_num(0.0)
        # In the regions' precision: half precision cannot distinguish the pixels of a large image.
        pooled = regions.new_zeros(len(regions), maps[0].shape[1], *self.output_size)
        # All counts at once: a GPU is waited for.
        counts = torch.stack([(level == index).sum() for index in range(len(maps))]).tolist()
        rows = level.argsort(stable=True).split(counts)
        for feature_map, stride, here in zip(maps, self.strides, rows, strict=True):
            pooled[here] = roi_align(
                feature_map.to(regions), regions[here], self.output_size, 1 / stride, sampling_ratio=0, aligned=True
            )
        return pooled.to(maps[0].dtype)


class RegionHeads(RoIHeads):
    """torchvision's, with the released matching and losses; it drops no box for its size.

    Class 0 is the background, as in torchvision.

    Args:
        in_channels: Channels of the pyramid.
        strides: Of the levels that regions are taken from.
        num_classes: Classes, the background not counted.
        norm_layer: Makes a normalisation for so many channels, for the mask head; none if not given.
        boxes: From pooled regions to class scores (R, classes + 1) and codes (R, 4 (classes + 1)); the
            released layers if not given.
        masks: From pooled regions to the logits (R, classes + 1, 28, 28) of their masks; as above.
    """

    def __init__(
        self,
        in_channels: int,
        strides: tuple[int, ...],
        num_classes: int,
        norm_layer: Callable[[int], nn.Module] | None = None,
        *,
        boxes: nn.Module | None = None,
        masks: nn.Module | None = None,
    ) -> None:
        outputs = num_classes + 1
        width = 4 * in_channels  # 1024 over the released pyramids
        super().__init__(
            AlignedPooler(strides, BOX_SIDE),
            nn.Identity() if boxes else TwoMLPHead(in_channels * BOX_SIDE**2, width),
            boxes or FastRCNNPredictor(width, outputs),
            fg_iou_thresh=0.5, bg_iou_thresh=0.5, batch_size_per_image=512, positive_fraction=0.25,
            bbox_reg_weights=None, score_thresh=0.05, nms_thresh=0.5, detections_per_img=100,
            mask_roi_pool=AlignedPooler(strides, MASK_SIDE),
            mask_head=nn.Identity() if masks else MaskRCNNHeads(in_channels, (in_channels,) * 4, 1, norm_layer),
            mask_predictor=masks or MaskRCNNPredictor(in_channels, in_channels, outputs),
        )  # fmt: skip
        self.proposal_matcher = BestMatcher(0.5, 0.5, 0.5)
        self.box_coder = ClampedBoxCoder((10.0, 10.0, 5.0, 5.0))
        if boxes is None:
            self._initialise()

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[Target], dict[str, Tensor]]:
        """Detections of each image with masks (n, 1, 28, 28) of their boxes; in training the losses instead."""
        if self.training:
            nothing: list[Target] = [{"boxes": regions[:0]} for regions in proposals]
            return nothing, self._losses(features, proposals, targets)
        scores, codes = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals)))
        found = self.postprocess_detections(scores, codes, proposals, image_shapes)
        results = [dict(zip(("boxes", "scores", "labels"), parts, strict=True)) for parts in zip(*found, strict=True)]
        masks = at_least_float32(self._mask_logits(features, [result["boxes"] for result in results]))
        for result, mask in zip(
            results, maskrcnn_inference(masks, [result["labels"] for result in results]), strict=True
        ):
            result["masks"] = mask
        return results, {}

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes, scores and labels of each image, best first."""
        counts = [len(proposal) for proposal in proposals]
        boxes = self.box_coder.decode(
            box_regression, proposals
        )  # torchvision leaves the classes joined if there are none
        all_boxes = boxes.reshape(*class_logits.shape, 4).split(counts)
        all_scores = class_logits.float().softmax(-1).split(counts)
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes_of_all, scores_of_all, size in zip(all_boxes, all_scores, image_shapes, strict=True):
            boxes = clip_boxes_to_image(boxes_of_all, size)[:, 1:]  # (n, classes, 4), without the background
            region, label = torch.where(scores_of_all[:, 1:] > self.score_thresh)
            scores, chosen = scores_of_all[region, label + 1], boxes[region, label]
            keep = batched_nms(chosen, scores, label, self.nms_thresh)[: self.detections_per_img]
            for kept, values in zip(found, (chosen, scores, label + 1), strict=True):
                kept.append(values[keep])
        return found

    def _initialise(self) -> None:
        for layer in self.box_head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
        for layer, deviation in ((self.box_predictor.cls_score, 0.01), (self.box_predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def _losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], targets: list[Target] | None
    ) -> dict[str, Tensor]:
        regions, matched, labels, aims = self.select_training_samples(proposals, targets)
        scores, codes = self.box_predictor(self.box_head(self.box_roi_pool(features, regions)))
        label, aim = torch.cat(labels), torch.cat(aims)
        positive = torch.where(label > 0)[0]
        codes = codes.reshape(len(codes), -1, 4)[positive, label[positive]]
        losses = {
            "loss_classifier": F.cross_entropy(scores, label),
            "loss_box_reg": F.l1_loss(codes, aim[positive], reduction="sum") / max(len(label), 1),
        }
        chosen = [
            torch.where((one > 0) & _masked(target, of))[0]
            for one, target, of in zip(labels, targets or [], matched, strict=True)
        ]
        boxes = [region[choice] for region, choice in zip(regions, chosen, strict=True)]
        logits = self._mask_logits(features, boxes)
        classes = torch.cat([one[choice] for one, choice in zip(labels, chosen, strict=True)])
        logits = logits[torch.arange(len(logits), device=logits.device), classes]
        wanted = [
            mask_targets(target["masks"], box, of[choice])
            for target, box, of, choice in zip(targets or [], boxes, matched, chosen, strict=True)
        ]
        if not len(logits):
            return losses | {"loss_mask": logits.sum()}  # no foreground regions, but part of the graph
        return losses | {"loss_mask": F.binary_cross_entropy_with_logits(logits, torch.cat(wanted).to(logits))}

    def _mask_logits(self, features: dict[str, Tensor], boxes: list[Tensor]) -> Tensor:
        logits: Tensor = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes)))
        return logits


def _masked(target: Target, matched: Tensor) -> Tensor:
    """(n), whether the ground truth of each region has a mask: all unless ``has_mask`` says otherwise."""
    if "has_mask" not in target:
        return torch.ones_like(matched, dtype=torch.bool)
    return target["has_mask"].to(matched.device)[matched]


def mask_targets(masks: Tensor, boxes: Tensor, matched: Tensor) -> Tensor:
    """The mask that each region should have: 1 where at least half of a cell is covered.

    Args:
        masks: Of the ground truth, (m, H, W).
        boxes: Regions, (n, 4) in pixels of the masks.
        matched: (n), each region's ground truth.

    Returns:
        (n, 28, 28), 0 or 1.
    """
    boxes = clip_boxes_to_image(boxes, (masks.shape[-2], masks.shape[-1]))
    regions = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    covered = roi_align(masks[:, None].to(boxes), regions, MASK_OUTPUT_SIDE, 1.0, sampling_ratio=0, aligned=True)
    wanted: Tensor = covered[:, 0] >= 0.5
    return wanted
