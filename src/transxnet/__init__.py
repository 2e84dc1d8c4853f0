"""TransXNet: a vision backbone with global attention and dynamic convolution in every block.

Importing the package registers the networks with timm.
"""

import importlib
from typing import TYPE_CHECKING, Any

from transxnet.interrupts import end_quietly, only_prints
from transxnet.version import __version__

end_quietly()  # the imports take seconds, in which Ctrl-C must not end in a traceback
if not only_prints():
    from transxnet import kernels
    from transxnet.checkpoints.hub_folder import save_folder
    from transxnet.checkpoints.writing import save_model
    from transxnet.config import VARIANTS, TransXNetConfig
    from transxnet.dense import DenseBackbone, Detector, Segmenter, create_backbone, register_dense_network
    from transxnet.dense.create import create_detector, create_segmenter, load_detector, load_segmenter
    from transxnet.errors import CheckpointError, ConfigError, DataError, Stopped, TransXNetError
    from transxnet.extras import MissingExtraError
    from transxnet.inference.export import ExportError, export
    from transxnet.inference.fuse import fuse
    from transxnet.inference.runtimes import load_exported
    from transxnet.layers.registry import BlockSizes, register_ffn, register_local_operator, register_token_mixer
    from transxnet.model import TransXNet
    from transxnet.zoo import RELEASED, create_model, load_model

if TYPE_CHECKING:
    from transxnet.api.evaluation import evaluate
    from transxnet.api.prediction import Predictor
    from transxnet.api.publishing import publish
    from transxnet.api.training import train

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
    "MissingExtraError",
    "Predictor",
    "Segmenter",
    "Stopped",
    "TransXNet",
    "TransXNetConfig",
    "TransXNetError",
    "__version__",
    "create_backbone",
    "create_detector",
    "create_model",
    "create_segmenter",
    "evaluate",
    "export",
    "fuse",
    "kernels",
    "load_detector",
    "load_exported",
    "load_model",
    "load_segmenter",
    "publish",
    "register_dense_network",
    "register_ffn",
    "register_local_operator",
    "register_token_mixer",
    "save_folder",
    "save_model",
    "train",
]

_WHEN_USED = {"Predictor": "prediction", "evaluate": "evaluation", "publish": "publishing", "train": "training"}


def __getattr__(name: str) -> Any:
    """Import training, evaluation and prediction when they are used: their libraries are many."""
    if name not in _WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.api.{_WHEN_USED[name]}"), name)
    globals()[name] = value
    return value
