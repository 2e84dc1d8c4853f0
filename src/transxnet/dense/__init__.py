"""Backbones for detection and segmentation."""

from transxnet.dense.backbone import DenseBackbone, create_backbone

__all__ = ["DenseBackbone", "create_backbone"]
