"""``config.json`` of a folder from the Hugging Face Hub, in timm's form, beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from transxnet.ablation.rows import NETWORKS
from transxnet.bounds import shown
from transxnet.checkpoints.fitting import square_size
from transxnet.checkpoints.releases import SHORT_NAMES
from transxnet.checkpoints.values import items, parse_metadata, reading_metadata
from transxnet.config import SPELLED_NONE, TransXNetConfig
from transxnet.errors import CheckpointError
from transxnet.files import read_text

HUB_CONFIG = "config.json"

_TRANSFORMERS = "timm_wrapper"  # the kind of model that transformers calls timm's
_AT_TOP = ("num_classes", "label_names")  # of a head's settings
_PREPROCESSING = ("short", "long")  # of a head's settings


@dataclass(frozen=True)
class HubConfig:
    """Content of a ``config.json``.

    Attributes:
        architecture: The network's registered name.
        config: Its configuration.
        pretrained_cfg: timm's settings: preprocessing, class names and licence, not checked.
        head: Description of a detector's or segmenter's head, not checked; empty for a classifier.
    """

    architecture: str
    config: TransXNetConfig
    pretrained_cfg: dict[str, Any]
    head: dict[str, Any] = field(default_factory=dict)


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
        described = _object(values, "pretrained_cfg") if "pretrained_cfg" in values else values  # older: one level
        arguments = _object(values, "model_args")
        architecture = _architecture(values.get("architecture", described.get("architecture")), path)
        settings = _settings(values, described, arguments)
        config = NETWORKS[architecture].override(**settings)
        if "img_size" not in settings and (size := square_size(weights, config)) is not None:
            config = config.override(img_size=size)
        names = _label_names(values, described)
        if values.get("model_type") == _TRANSFORMERS and isinstance(names, list) and len(names) != config.num_classes:
            names = None  # it keeps those of the weights it started from when it trains other classes
    return HubConfig(architecture, config, {**described, "num_classes": config.num_classes, "label_names": names})


def arguments_of(architecture: str, config: TransXNetConfig) -> dict[str, Any]:
    """Settings that differ from those of the registered network, with "none" for None, which timm drops."""
    base = NETWORKS[architecture].to_dict()
    changed = {name: value for name, value in config.to_dict().items() if value != base.get(name)}
    return {name: SPELLED_NONE.get(name) if value is None else value for name, value in changed.items()}


def dense_hub_config(
    architecture: str, config: TransXNetConfig, head: Mapping[str, Any], **preprocessing: Any
) -> dict[str, Any]:
    """The content of a ``config.json`` that describes a detector or segmenter.

    Its architecture is the head's kind: other libraries know no network of that name, and would take that of the
    backbone for a classifier.

    Args:
        architecture: The backbone's registered name.
        config: The backbone's configuration.
        head: Description of the head, as plain values.
        **preprocessing: Settings of the preprocessing that are not among the head's.
    """
    rest = {name: value for name, value in head.items() if name not in (*_AT_TOP, *_PREPROCESSING, "kind")}
    return {
        "library_name": "transxnet",
        "architecture": head["kind"],
        **{name: head[name] for name in _AT_TOP},
        "backbone": architecture,
        "backbone_args": arguments_of(architecture, config),
        "head": rest,
        "preprocessing": {name: head[name] for name in _PREPROCESSING} | preprocessing,
    }


def read_dense_hub_config(path: Path) -> HubConfig | None:
    """Read the description of a detector or segmenter, as :func:`dense_hub_config` gives it.

    Returns:
        The description; its ``pretrained_cfg`` has the preprocessing. None if the file describes something else.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    with reading_metadata(path):
        values = parse_metadata(read_text(path))
        if "head" not in values:
            return None
        architecture = _architecture(values.get("backbone"), path)
        config = NETWORKS[architecture].override(**_object(values, "backbone_args"))
        preprocessing = _object(values, "preprocessing")
        sides = {name: preprocessing.pop(name) for name in _PREPROCESSING if name in preprocessing}
        top = {name: values[name] for name in _AT_TOP if name in values}
        head = {"kind": values["architecture"], **top, **_object(values, "head"), **sides}
    return HubConfig(architecture, config, preprocessing, head)


def contradiction(first: HubConfig, second: HubConfig) -> str:
    """A setting that two descriptions of a network give different values; empty if there is none.

    Those of classifiers have been checked.
    """
    pairs: list[tuple[str, Any, Any]] = []
    if first.architecture and second.architecture:
        pairs.append(("architecture", first.architecture, second.architecture))
    one, other = first.config.to_dict(), second.config.to_dict()
    pairs += [(name, one.get(name), other.get(name)) for name in one | other]
    for mine, theirs in ((first.pretrained_cfg, second.pretrained_cfg), (first.head, second.head)):
        pairs += [(name, value, theirs[name]) for name, value in mine.items() if name in theirs]
    for name, value, another in pairs:
        if _plain(value) != _plain(another):
            return f"{name} is {shown(value)} in the one and {shown(another)} in the other"
    return ""


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _object(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A copy of an object in the file; empty if there is none."""
    value = values.get(name)
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name} must be an object, not {shown(value)}")
    return dict(value or {})


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
