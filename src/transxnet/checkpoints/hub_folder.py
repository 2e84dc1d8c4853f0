"""Folders in the form of the Hugging Face Hub: ``model.safetensors``, and ``config.json`` that describes it."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any, cast

from timm.models._hub import save_config_for_hf
from torch import nn

from transxnet.checkpoints.hub_config import HUB_CONFIG, arguments_of, dense_hub_config
from transxnet.checkpoints.writing import Describable, save_model
from transxnet.files import replacing, user_path, write_text
from transxnet.model import TransXNet

WEIGHTS = "model.safetensors"

_OF_OTHER_WEIGHTS = ("license", "origin_url", "tag")  # of the released weights that the network's name stands for


def save_folder(model: nn.Module, folder: str | os.PathLike[str], *, license: str | None = None) -> Path:  # noqa: A002
    """Write a network as a folder that the Hugging Face Hub takes.

    A classifier's folder is the one that ``timm.models.save_for_hf`` writes: timm and transformers load it once
    ``transxnet`` is imported. A detector's or segmenter's has the same files, and is loaded by this package.
    Every function and command that takes a checkpoint takes the folder.

    Args:
        model: A classifier, a detector or a segmenter.
        folder: The folder; its files of the same names are replaced.
        license: Identifier of the weights' licence, such as "apache-2.0"; none is stated by default.

    Returns:
        The folder.

    Raises:
        ConfigError: If the network is fused or not one of ours.
    """
    target = user_path(folder)
    target.mkdir(parents=True, exist_ok=True)
    save_model(model, target / WEIGHTS)
    if isinstance(model, TransXNet):
        with replacing(target / HUB_CONFIG) as temporary:
            _save_config(model, temporary, license)
    else:
        about = cast(Describable, model).describe()
        network: Any = model
        normalisation = {"mean": network.mean, "std": network.std}
        content = dense_hub_config(about["architecture"], network.config, about["head"], **normalisation)
        write_text(
            target / HUB_CONFIG, json.dumps(content | ({"license": license} if license else {}), indent=2) + "\n"
        )
    return target


def _save_config(model: TransXNet, path: Path, license: str | None) -> None:  # noqa: A002
    """Write timm's description of a classifier, with the class names where transformers looks for them."""
    cfg = {name: value for name, value in model.pretrained_cfg.items() if name not in _OF_OTHER_WEIGHTS}
    names = cfg.pop("label_names", None) or ()
    described = copy.copy(model)
    described.pretrained_cfg = cfg | ({"license": license} if license else {})
    save_config_for_hf(
        described,
        str(path),
        model_config={"label_names": list(names)} if len(names) == model.num_classes else None,
        model_args=arguments_of(cfg["architecture"], model.config),
    )
