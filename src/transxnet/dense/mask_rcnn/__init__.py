"""Mask R-CNN: proposals, regions, and its exported form."""

from transxnet.dense.mask_rcnn.detector import MaskRCNN

__all__ = ["MaskRCNN"]
