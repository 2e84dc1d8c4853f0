"""Mask R-CNN as the released detectors have it (table III)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from transxnet.checkpoints.released_dense import ReleasedNames
from transxnet.dense.backbone import DenseBackbone
from transxnet.dense.detection_transform import DetectionTransform, Target
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.mask_rcnn.export_form import MaskRCNNForm
from transxnet.dense.mask_rcnn.proposals import ProposalNetwork
from transxnet.dense.mask_rcnn.regions import RegionHeads
from transxnet.dense.protocol import Detector
from transxnet.dense.pyramid import EverySecondPixel, PyramidBackbone, head_norm
from transxnet.dense.registry import register_dense_network


def _background_first(name: str, tensor: Tensor) -> Tensor:
    """Move the background first: torchvision has it as class 0, the released heads last or not at all."""
    if name.startswith("roi_heads.box_predictor.cls_score."):
        return torch.cat([tensor[-1:], tensor[:-1]])
    if name.startswith("roi_heads.box_predictor.bbox_pred."):
        return torch.cat([tensor.new_zeros(4, *tensor.shape[1:]), tensor])
    if name.startswith("roi_heads.mask_predictor.mask_fcn_logits."):
        return torch.cat([tensor.new_zeros(1, *tensor.shape[1:]), tensor])
    return tensor


_RELEASED_NAMES = ReleasedNames(
    "roi_head.bbox_head.fc_cls.weight",
    (
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
    ),
    _background_first,
)


@register_dense_network("mask_rcnn")
class MaskRCNN(Detector, GeneralizedRCNN):
    """torchvision's assembly of the released parts.

    Called with a list of images (3, H, W); in training also with targets (``boxes`` (n, 4) in
    pixels, ``labels`` (n) from 0, ``masks`` (n, H, W)), for a dictionary of losses; in evaluation,
    for a list of detections with ``boxes``, ``scores``, ``labels`` from 0 and ``masks`` (n, H, W),
    bool.

    Args:
        backbone: Backbone and pyramid of strides 4 to 64.
        num_classes: Classes.
        transform: Makes batches of images; the released rule if not given.
        norm_layer: Makes a normalisation for so many channels, for the mask head; none if not given.
    """

    title = "Mask R-CNN"
    class_weight = "roi_heads.box_predictor.cls_score.weight"
    class_layers = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
    export_form = MaskRCNNForm()
    released_names = _RELEASED_NAMES
    predicts_masks = True

    rpn: Any  # torchvision has no types
    roi_heads: Any

    def __init__(
        self,
        backbone: PyramidBackbone,
        num_classes: int = 80,
        transform: DetectionTransform | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__(
            backbone,
            ProposalNetwork(backbone.out_channels, backbone.strides),
            RegionHeads(backbone.out_channels, backbone.strides[:-1], num_classes, norm_layer),
            transform or DetectionTransform(),
        )

    @classmethod
    def build(cls, body: DenseBackbone, head: HeadDescription) -> Self:
        norm = head_norm if head.normalised else None
        pyramid = PyramidBackbone(body, head.pyramid_channels, lambda *channels: EverySecondPixel(), norm)
        model = cls(pyramid, head.num_classes, cls.transform_for(head), norm)
        model.rpn.set_proposals(head.proposals)
        return model

    @classmethod
    def classes_of(cls, rows: int) -> int:
        return rows - 1

    def sample_regions(self, count: int) -> None:
        self.roi_heads.fg_bg_sampler.batch_size_per_image = count

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """Losses in training, detections in evaluation; raises ValueError for inputs that are not as described."""
        self.check_inputs(images, targets)
        if targets is not None:  # torchvision's class 0 is the background
            targets = [target | {"labels": target["labels"] + 1} for target in targets]
        originals = [(image.shape[1], image.shape[2]) for image in images]
        batch, targets = self.transform(images, targets)
        maps = self.backbone(batch.tensors)
        proposals, losses = self.rpn(batch, maps, targets)
        found, more = self.roi_heads(maps, proposals, batch.image_sizes, targets)
        if self.training:
            return more | losses
        result = self.transform.postprocess(found, batch.image_sizes, originals)
        return [one | {"labels": one["labels"] - 1} for one in result]
