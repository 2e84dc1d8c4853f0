"""TransXNet: a vision backbone with global attention and dynamic convolution in every block.

Importing the package registers the networks with timm.
"""

from transxnet import kernels
from transxnet.checkpoints.writing import save_model
from transxnet.config import VARIANTS, TransXNetConfig
from transxnet.dense import DenseBackbone, Detector, Segmenter, create_backbone, register_dense_network
from transxnet.dense.create import create_detector, create_segmenter, load_detector, load_segmenter
from transxnet.errors import CheckpointError, ConfigError, DataError, TransXNetError
from transxnet.inference.export import ExportError, export
from transxnet.inference.fuse import fuse
from transxnet.inference.runtimes import load_exported
from transxnet.layers.registry import BlockSizes, register_ffn, register_local_operator, register_token_mixer
from transxnet.model import TransXNet
from transxnet.version import __version__
from transxnet.zoo import RELEASED, create_model, load_model

__all__ = [
    "RELEASED",
    "VARIANTS",
    "BlockSizes",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DenseBackbone",
    "Detector",
    "ExportError",
    "Segmenter",
    "TransXNet",
    "TransXNetConfig",
    "TransXNetError",
    "__version__",
    "create_backbone",
    "create_detector",
    "create_model",
    "create_segmenter",
    "export",
    "fuse",
    "kernels",
    "load_detector",
    "load_exported",
    "load_model",
    "load_segmenter",
    "register_dense_network",
    "register_ffn",
    "register_local_operator",
    "register_token_mixer",
    "save_model",
]
