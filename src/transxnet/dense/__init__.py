"""Backbones for detection and segmentation, and the networks on them."""

# Messages list the networks in the order of their registration.
# isort: off
from transxnet.dense.backbone import DenseBackbone, create_backbone
from transxnet.dense.retinanet import RetinaNet
from transxnet.dense.mask_rcnn import MaskRCNN
from transxnet.dense.semantic_fpn import SemanticFPN
from transxnet.dense.protocol import Detector, Segmenter
from transxnet.dense.registry import register_dense_network
# isort: on

__all__ = [
    "DenseBackbone",
    "Detector",
    "MaskRCNN",
    "RetinaNet",
    "Segmenter",
    "SemanticFPN",
    "create_backbone",
    "register_dense_network",
]
