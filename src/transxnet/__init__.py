"""TransXNet: a vision backbone with global attention and dynamic convolution in every block.

Importing the package registers the networks with timm.
"""

import importlib
from typing import TYPE_CHECKING, Any

from transxnet.interrupts import end_quietly

end_quietly()

from transxnet import kernels  # noqa: E402 (takes seconds, in which Ctrl-C must not end in a traceback)
from transxnet.checkpoints.writing import save_model  # noqa: E402
from transxnet.config import VARIANTS, TransXNetConfig  # noqa: E402
from transxnet.dense import DenseBackbone, Detector, Segmenter, create_backbone, register_dense_network  # noqa: E402
from transxnet.dense.create import create_detector, create_segmenter, load_detector, load_segmenter  # noqa: E402
from transxnet.errors import CheckpointError, ConfigError, DataError, Stopped, TransXNetError  # noqa: E402
from transxnet.extras import MissingExtraError  # noqa: E402
from transxnet.inference.export import ExportError, export  # noqa: E402
from transxnet.inference.fuse import fuse  # noqa: E402
from transxnet.inference.runtimes import load_exported  # noqa: E402
from transxnet.layers.registry import BlockSizes, register_ffn, register_local_operator, register_token_mixer  # noqa: E402
from transxnet.model import TransXNet  # noqa: E402
from transxnet.version import __version__  # noqa: E402
from transxnet.zoo import RELEASED, create_model, load_model  # noqa: E402

if TYPE_CHECKING:
    from transxnet.api.evaluation import evaluate
    from transxnet.api.prediction import Predictor
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
    "register_dense_network",
    "register_ffn",
    "register_local_operator",
    "register_token_mixer",
    "save_model",
    "train",
]

_WHEN_USED = {"Predictor": "prediction", "evaluate": "evaluation", "train": "training"}


def __getattr__(name: str) -> Any:
    """Import training, evaluation and prediction when they are used: their libraries are many."""
    if name not in _WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.api.{_WHEN_USED[name]}"), name)
    globals()[name] = value
    return value
