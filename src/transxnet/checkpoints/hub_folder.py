"""Folders in the form of the Hugging Face Hub: ``model.safetensors``, and ``config.json`` that describes it."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from transxnet.ablation.rows import NETWORKS
from transxnet.bounds import shown
from transxnet.checkpoints.fitting import variant_of
from transxnet.checkpoints.hub_config import HUB_CONFIG, arguments_of, dense_hub_config
from transxnet.checkpoints.reading import IN_FOLDERS
from transxnet.checkpoints.writing import Describable, save_model
from transxnet.errors import ConfigError
from transxnet.files import read_json, replacing_folder, user_path, write_text
from transxnet.model import TransXNet
from transxnet.output_paths import output_folder

WEIGHTS = "model.safetensors"

_OF_OTHER_WEIGHTS = ("license", "origin_url", "tag")  # of the released weights that the network's name stands for


def save_folder(model: nn.Module, folder: str | os.PathLike[str], *, license: str | None = None) -> Path:  # noqa: A002
    """Write a network as a folder that the Hugging Face Hub takes.

    A classifier's folder is the one that ``timm.models.save_for_hf`` writes: timm and transformers load it once
    ``transxnet`` is imported. A detector's or segmenter's has the same files, and is loaded by this package.
    Every function and command that takes a checkpoint takes the folder.

    Args:
        model: A classifier, a detector or a segmenter.
        folder: The folder; its files of the same names are replaced, both or neither of them.
        license: Identifier of the weights' licence, such as "apache-2.0"; none is stated by default.

    Returns:
        The folder.

    Raises:
        ConfigError: If the network is fused, not one of ours or of no registered name, or if the folder cannot be
            written or holds other weights, which would be loaded instead.
    """
    target = output_folder(folder, force=True)
    check_other_weights(target)
    with replacing_folder(target, (HUB_CONFIG, WEIGHTS)) as temporary:
        save_model(model, temporary / WEIGHTS)
        content = _timm_config(model, license) if isinstance(model, TransXNet) else _dense_config(model, license)
        write_text(temporary / HUB_CONFIG, json.dumps(content, indent=2) + "\n")
    return user_path(folder)


def check_other_weights(folder: Path) -> None:
    """Raise ConfigError if a folder holds weights that are loaded instead of those of the Hub's name."""
    for name in IN_FOLDERS[: IN_FOLDERS.index(WEIGHTS)]:
        if os.path.lexists(folder / name):
            raise ConfigError(f"{folder} holds {name}, which would be loaded instead of {WEIGHTS}: give another folder")


def _registered_name(name: str, weights: Mapping[str, Tensor]) -> str:
    """The name by which others create a network: its own, or that of the variant of its sizes."""
    name = name or variant_of(weights)
    if name not in NETWORKS:
        given = f"{shown(name)} is no network of this package" if name else "no registered network has its sizes"
        raise ConfigError(
            f'{given}: set pretrained_cfg["architecture"] to the name of one whose settings the network changes'
        )
    return name


def _timm_config(model: TransXNet, license: str | None) -> dict[str, Any]:  # noqa: A002
    """Timm's description of a classifier, with class names and their number where transformers looks for them."""
    cfg = {name: value for name, value in model.pretrained_cfg.items() if name not in _OF_OTHER_WEIGHTS}
    cfg["architecture"] = _registered_name(cfg.get("architecture", ""), model.state_dict())
    names = list(cfg.pop("label_names", None) or ())
    described = copy.copy(model)
    described.pretrained_cfg = cfg | ({"license": license} if license else {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, HUB_CONFIG)
        save_config_for_hf(
            described,
            str(path),
            model_config={"label_names": names} if len(names) == model.num_classes > 0 else None,
            model_args=arguments_of(cfg["architecture"], model.config),
        )
        content: dict[str, Any] = read_json(path)
    content.get("model_args", {}).pop("num_classes", None)  # transformers gives it, too, and Python refuses it twice
    return content


def _dense_config(model: Any, license: str | None) -> dict[str, Any]:  # noqa: A002
    """The description of a detector or segmenter."""
    about = cast(Describable, model).describe()
    normalisation = {"mean": list(model.mean), "std": list(model.std)}
    content = dense_hub_config(about["architecture"], model.config, about["head"], **normalisation)
    return content | ({"license": license} if license else {})
