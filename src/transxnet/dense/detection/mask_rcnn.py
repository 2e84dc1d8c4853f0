"""Mask R-CNN as the released detectors have it (table III)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from transxnet.dense.detection.proposals import ProposalNetwork
from transxnet.dense.detection.regions import RegionHeads
from transxnet.dense.detection.transform import DetectionTransform, Target
from transxnet.dense.head import Described
from transxnet.dense.pyramid import PyramidBackbone


class MaskRCNN(Described, GeneralizedRCNN):
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

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> Any:
        """Losses in training, detections in evaluation."""
        if targets is not None:  # torchvision's class 0 is the background
            targets = [target | {"labels": target["labels"] + 1} for target in targets]
        result = super().forward(images, targets)
        if self.training:
            return result
        return [found | {"labels": found["labels"] - 1} for found in result]
