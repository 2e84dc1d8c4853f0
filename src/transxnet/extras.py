"""Optional dependencies: the packages of each extra, and the error for what is not installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from typing import Any

from transxnet.errors import TransXNetError

EXTRAS: Mapping[str, Mapping[str, str]] = {
    "train": {
        "jsonargparse": "jsonargparse",
        "lightning": "lightning",
        "matplotlib": "matplotlib",
        "rich": "rich",
        "scikit-learn": "sklearn",
        "scipy": "scipy",
        "tensorboard": "tensorboard",
        "tifffile": "tifffile",
        "torchmetrics": "torchmetrics",
    },
    "dense": {
        "faster-coco-eval": "faster_coco_eval",
        "matplotlib": "matplotlib",
        "scikit-image": "skimage",
        "scikit-learn": "sklearn",
        "tifffile": "tifffile",
        "torchmetrics": "torchmetrics",
    },
    "analysis": {
        "grad-cam": "pytorch_grad_cam",
        "matplotlib": "matplotlib",
        "scikit-image": "skimage",
        "scikit-learn": "sklearn",
    },
    "export": {
        "onnx": "onnx",
        "onnxruntime": "onnxruntime",
        "onnxscript": "onnxscript",
        "openvino": "openvino",
    },
    "serve": {
        "fastapi": "fastapi",
        "prometheus-client": "prometheus_client",
        "python-multipart": "python_multipart",
        "starlette": "starlette",
        "uvicorn": "uvicorn",
    },
    "parquet": {"datasets": "datasets", "pyarrow": "pyarrow"},
}
"""Extra to its packages, each with the module that it installs."""


class MissingExtraError(TransXNetError, ImportError):
    """Something needs packages that are not installed; the message says how to install them."""


def require(subject: str, extra: str, *packages: str) -> None:
    """Check that packages are installed, without importing them.

    A package that is installed but cannot be imported passes: it shows its own error when it is imported.

    Args:
        subject: Subject of the message: what needs the packages.
        extra: The extra that brings them.
        packages: Packages of the extra; all of them by default.

    Raises:
        MissingExtraError: If one is missing.
    """
    modules = EXTRAS[extra]
    missing = [package for package in packages or modules if not installed(modules[package])]
    if missing:
        partly = any(map(installed, modules.values()))
        listed = f" (missing: {', '.join(missing)})" if partly else ""
        raise MissingExtraError(
            f'{subject} needs the extra "{extra}": pip install "transxnet[{extra}]"{listed}', name=modules[missing[0]]
        )


def load(subject: str, extra: str, module: str) -> Any:
    """Import a module of an extra; arguments and errors are those of :func:`require`.

    Args:
        subject: What needs the module.
        extra: The extra that brings it.
        module: Its name, such as "onnx" or "pyarrow.parquet".
    """
    top = module.partition(".")[0]
    require(subject, extra, *(package for package, name in EXTRAS[extra].items() if name == top))
    return importlib.import_module(module)


def installed(module: str) -> bool:
    """Whether a module can be found. A folder of that name, which Python takes for a package, is not one."""
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None
