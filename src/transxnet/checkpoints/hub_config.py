"""``config.json`` of a folder from the Hugging Face Hub, in timm's form, beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from transxnet.ablation.rows import NETWORKS
from transxnet.bounds import shown
from transxnet.checkpoints.fitting import square_size
from transxnet.checkpoints.releases import SHORT_NAMES
from transxnet.checkpoints.values import items, parse_metadata, reading_metadata
from transxnet.config import TransXNetConfig
from transxnet.errors import CheckpointError
from transxnet.files import read_text

HUB_CONFIG = "config.json"


@dataclass(frozen=True)
class HubConfig:
    """Content of a ``config.json``.

    Attributes:
        architecture: The network's registered name.
        config: Its configuration.
        pretrained_cfg: timm's settings: preprocessing and class names, not checked.
    """

    architecture: str
    config: TransXNetConfig
    pretrained_cfg: dict[str, Any]


def read_hub_config(path: Path, weights: Mapping[str, Tensor]) -> HubConfig:
    """Read the description of a network that timm or the Hub's users write beside its weights.

    Args:
        path: The file.
        weights: The weights beside it, under our names; the image size follows them if the file has none.

    Raises:
        CheckpointError: If it cannot be read, contradicts itself, or describes a network of another package.
    """
    with reading_metadata(path):
        values = parse_metadata(read_text(path))
        described = values.get("pretrained_cfg", values)  # older files have one level
        if not isinstance(described, dict):
            raise ValueError(f"pretrained_cfg must be an object, not {shown(described)}")
        arguments = values.get("model_args") or {}
        if not isinstance(arguments, dict):
            raise ValueError(f"model_args must be an object, not {shown(arguments)}")
        architecture = _architecture(values.get("architecture", described.get("architecture")), path)
        settings = _settings(values, described, arguments)
        config = NETWORKS[architecture].override(**settings)
        if "img_size" not in settings and (size := square_size(weights, config)) is not None:
            config = config.override(img_size=size)
        names = _label_names(values, described)
    return HubConfig(architecture, config, {**described, "num_classes": config.num_classes, "label_names": names})


def contradiction(first: HubConfig, second: HubConfig) -> str:
    """A setting that two descriptions of a network give different values; empty if there is none.

    Both ``pretrained_cfg`` have been checked.
    """
    pairs: list[tuple[str, Any, Any]] = []
    if first.architecture and second.architecture:
        pairs.append(("architecture", first.architecture, second.architecture))
    one, other = first.config.to_dict(), second.config.to_dict()
    pairs += [(name, one.get(name), other.get(name)) for name in one | other]
    cfg = second.pretrained_cfg
    pairs += [(name, value, cfg[name]) for name, value in first.pretrained_cfg.items() if name in cfg]
    for name, value, another in pairs:
        if _plain(value) != _plain(another):
            return f"{name} is {shown(value)} in the one and {shown(another)} in the other"
    return ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _architecture(name: Any, path: Path) -> str:
    if not isinstance(name, str):
        raise ValueError(f"its architecture must be the name of a network, not {shown(name)}")
    known = name.partition(".")[0]  # a tag follows
    known = SHORT_NAMES.get(known, known)
    if known not in NETWORKS:
        raise CheckpointError(
            f"{path}: its architecture {shown(name)} is no network of this package, but the weights beside it are one's"
        )
    return known


def _settings(values: dict[str, Any], described: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The configuration's fields that the file sets."""
    settings: dict[str, Any] = {}
    size = described.get("input_size")
    if size is not None:
        settings["in_chans"] = items("input_size", size, 3)[0]
    for name in ("num_classes", "global_pool"):
        found = {key: one[name] for key, one in (("the top level", values), ("pretrained_cfg", described),
                 ("model_args", arguments)) if one.get(name) is not None}  # fmt: skip
        if len(set(map(str, found.values()))) > 1:
            where = " and ".join(f"{shown(value)} in {key}" for key, value in found.items())
            raise ValueError(f"it contradicts itself: {name} is {where}")
        if found:
            settings[name] = next(iter(found.values()))
    return settings | arguments


def _label_names(values: dict[str, Any], described: dict[str, Any]) -> Any:
    """Class names under timm's name, an older one of timm's or that of the transformers library."""
    for part in (values, described):
        for name in ("label_names", "labels"):
            if part.get(name) is not None:
                return part[name]
    by_id = values.get("id2label")
    if not isinstance(by_id, dict):
        return None
    return [by_id[str(index)] for index in range(len(by_id))]
