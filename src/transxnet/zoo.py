"""Networks by name, as timm creates them, and the released weights."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError
from timm.models import (
    FeatureListNet,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    split_model_name_tag,
)
from timm.models._builder import resolve_pretrained_cfg
from timm.models._hub import download_from_hf

from transxnet.ablation.rows import NETWORKS as NETWORKS
from transxnet.checkpoints.fitting import check_variant, fit, square_size, variant_of
from transxnet.checkpoints.hub_config import arguments_of
from transxnet.checkpoints.reading import Checkpoint, Source, read_checkpoint
from transxnet.checkpoints.releases import RELEASED as RELEASED
from transxnet.checkpoints.releases import SHORT_NAMES as SHORT_NAMES
from transxnet.checkpoints.releases import timm_descriptions
from transxnet.config import SPELLED_NONE, VARIANTS, TransXNetConfig, without_unset
from transxnet.errors import CheckpointError, ConfigError
from transxnet.model import Stage, TransXNet


def full_name(name: str) -> str:
    """The network that a name, short or with a tag, stands for; raises ConfigError if it is unknown."""
    known, tag = split_model_name_tag(name)
    if known not in (*NETWORKS, *SHORT_NAMES):
        near = difflib.get_close_matches(known, NETWORKS, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(VARIANTS)} and the ablations' rows"
        raise ConfigError(f"there is no network {name!r}{hint}")
    if tag and name not in (tags := [full for full in timm_descriptions() if full.startswith(f"{known}.")]):
        raise ConfigError(f"there is no {name!r}; there are {', '.join(tags)}")
    return SHORT_NAMES.get(known, known)


default_cfgs = generate_default_cfgs(timm_descriptions())

_FIELDS = frozenset(field.name for field in fields(TransXNetConfig))
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class StageFeatures(FeatureListNet):
    """timm's ``features_only`` network; checkpointing is left to the stages, which count batches once."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations."""
        for module in self.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable


def _create(
    variant: str,
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    **settings: Any,
) -> TransXNet:
    overlay = dict(pretrained_cfg_overlay or {})
    settings = without_unset(settings)
    config = NETWORKS[variant]
    checkpoint = None
    size = tuple(resolve_pretrained_cfg(variant, pretrained_cfg, overlay).input_size[1:])
    if pretrained:
        checkpoint = _read_source(variant, pretrained_cfg, overlay, cache_dir)
        if checkpoint.config is not None:
            config = checkpoint.config
        planned = config.override(**{name: value for name, value in settings.items() if name in _FIELDS})
        check_variant(checkpoint.state_dict, planned, checkpoint.source)  # before anything is allocated
        wanted = settings.get("num_classes", 0 if settings.get("features_only") else None)
        sizes = _sizes(checkpoint, planned, wanted) | {"img_size": square_size(checkpoint.state_dict, planned)}
        overlay |= _overlay(checkpoint, variant, pretrained_cfg, overlay, sizes)
    elif size != config.img_size and "img_size" not in settings:  # a tag's, or the caller's
        settings["img_size"] = size
    built: list[TransXNet] = []
    model: TransXNet = build_model_with_cfg(
        partial(_build, built),
        variant,
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=overlay,
        model_cfg=config,
        feature_cfg={
            "out_indices": tuple(range(config.num_stages)),
            "flatten_sequential": True,
            "feature_cls": StageFeatures,
        },
        pretrained_filter_fn=partial(_fit, checkpoint=checkpoint, keep_size="img_size" in settings),
        **settings,
    )
    described = checkpoint is not None and checkpoint.config is not None
    keeps = described and "input_size" not in (pretrained_cfg_overlay or {})
    if "img_size" in settings or not checkpoint:  # noqa: SIM108
        size = built[0].config.img_size
    else:
        size = tuple(overlay["input_size"][1:])
    _describe_built(built[0], model, size, keeps=keeps)
    return model


def _describe_built(network: TransXNet, model: Any, size: Any, *, keeps: bool) -> None:
    """Make the descriptions of a network, and of timm's feature extractor around it, agree with its configuration.

    Args:
        network: The network.
        model: The network or the extractor.
        size: Height and width of the images to evaluate with.
        keeps: Whether position biases are kept for another size than that, as the network's file describes.
    """
    network.pretrained_cfg.pop("state_dict", None)  # only needed for loading
    network.pretrained_cfg.setdefault("first_conv", "stem.conv")
    if not keeps and size != network.config.img_size:
        network.set_input_size(size)
    network.update_description(size)
    arguments = arguments_of(network.pretrained_cfg["architecture"], network.config)
    network._model_args = arguments  # type: ignore[assignment]  # for timm's files of its models' arguments
    if model is not network:
        ours = network.pretrained_cfg
        model.pretrained_cfg = {name: ours.get(name, value) for name, value in model.pretrained_cfg.items()}
        model.pretrained_cfg.pop("state_dict", None)
        model.default_cfg = model.pretrained_cfg
        model._traits = dict(network._traits)  # type: ignore[arg-type]


def _build(
    built: list[TransXNet], cfg: TransXNetConfig, device: Any = None, dtype: Any = None, **settings: Any
) -> TransXNet:
    with torch.device(device) if device is not None else nullcontext():
        built.append(TransXNet(cfg.override(**settings)).to(dtype=dtype))
    return built[0]


def _fit(
    state_dict: dict[str, Any], model: TransXNet, *, checkpoint: Checkpoint | None, keep_size: bool
) -> dict[str, Any]:
    assert checkpoint is not None  # timm calls this for pretrained networks only
    stored_size = checkpoint.config.img_size if checkpoint.config else None
    return fit(state_dict, model, source=checkpoint.source, stored_size=stored_size, keep_size=keep_size, adapted=True)


def _read_source(
    variant: str, pretrained_cfg: Any, overlay: Mapping[str, Any], cache_dir: str | Path | None
) -> Checkpoint:
    """Read the weights with the package's own reader, so that every way of loading has the same safety and errors."""
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, dict(overlay))
    source: Any = cfg.state_dict or cfg.file or cfg.url
    if cfg.hf_hub_id and (cfg.source == "hf-hub" or not source):
        source = _from_hub(cfg.hf_hub_id, cfg.hf_hub_filename, cache_dir)
    if not source:
        raise CheckpointError(
            f"there are no released weights for {variant}",
            "give a checkpoint, or train one with `transxnet train`",
            "give others with --checkpoint, or train some with `transxnet train`",
        )
    checkpoint = read_checkpoint(source, cache_dir)
    _check_classifier(checkpoint)
    if checkpoint.architecture not in ("", variant):
        raise CheckpointError(
            f"{checkpoint.source} holds {checkpoint.architecture}, not {variant}",
            "create the one it holds",
            f"give --model {checkpoint.architecture}, or leave --model out",
        )
    return checkpoint


def _check_classifier(read: Checkpoint) -> None:
    if read.head or any(entry.startswith("backbone.") for entry in read.state_dict):
        raise CheckpointError(
            f"{read.source} holds a detector or a segmenter",
            "load_detector and load_segmenter load these",
            "this command takes classifiers",
        )


def _from_hub(model_id: str, file: str | None, cache_dir: str | Path | None) -> Source:
    """Read a model's weights from Hugging Face as any other file."""
    try:
        for name in (file,) if file else _HUB_FILES:
            try:
                return read_checkpoint(download_from_hf(model_id, name, cache_dir))
            except LocalEntryNotFoundError:  # there is no network
                raise
            except EntryNotFoundError as error:
                missing = error
        raise missing
    except CheckpointError:
        raise
    except (OSError, ValueError, HfHubHTTPError, EntryNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"could not download {model_id} from Hugging Face ({reason}); without a network, fetch the file on "
            "another machine and give its path as the checkpoint"
        ) from error


def _overlay(
    checkpoint: Checkpoint, variant: str, pretrained_cfg: Any, overlay: Mapping[str, Any], sizes: Mapping[str, Any]
) -> dict[str, Any]:
    """Description of the file for timm: the weights, and differences from the registered description."""
    described = {**checkpoint.pretrained_cfg, **overlay}
    cfg = replace(resolve_pretrained_cfg(variant, pretrained_cfg), **described)
    size = sizes["img_size"]
    native: Sequence[int] = cfg.input_size[1:]
    if checkpoint.config is not None and "input_size" not in described:
        native = checkpoint.config.img_size
    elif checkpoint.config is None and "input_size" not in overlay and size not in (None, NETWORKS[variant].img_size):
        native = size  # biases stored for another size than usual give the size to use the network at
    facts = {"state_dict": checkpoint.state_dict, "source": "", "custom_load": False, "architecture": variant}
    if "num_classes" in sizes:
        facts["num_classes"] = sizes["num_classes"]
    return {**described, **facts, "input_size": (sizes.get("in_chans", cfg.input_size[0]), *native)}


def _stems(planned: TransXNetConfig) -> list[tuple[int, int, int]]:
    """Channels, height and width of the kernels that a stem may have."""
    return [(planned.channels[0], side, side) for side in (4, 7)]


def _sizes(checkpoint: Checkpoint, planned: TransXNetConfig, wanted: int | None) -> dict[str, Any]:
    """Input channels and classes of the file.

    Args:
        checkpoint: The file.
        planned: The network that is to be built.
        wanted: Classes that were asked for; None if none were.

    Raises:
        CheckpointError: If the file has a stem or a classifier of no such network, or no classifier
            where none was asked for.
    """
    stem, head = (checkpoint.state_dict.get(name) for name in ("stem.conv.weight", "head.fc.weight"))
    facts: dict[str, Any] = {}
    width = planned.channels[-1]
    # Another shape is left for fit to name; no network is built that large.
    if stem is not None and stem.ndim == 4 and (stem.shape[0], *stem.shape[2:]) in _stems(planned):
        facts["in_chans"] = stem.shape[1]
    if head is not None and head.ndim == 2 and head.shape[1] in (width, 2 * width):  # of two poolings
        facts["num_classes"] = head.shape[0]
    elif head is None:
        if wanted is None and (checkpoint.config is None or checkpoint.config.num_classes):
            raise CheckpointError(
                f"{checkpoint.source} holds no classifier",
                "give num_classes for a new one, or 0",
                "`transxnet train --checkpoint` trains a new one on your images",
            )
        facts["num_classes"] = 0
    return facts


def _register(name: str, network: str) -> None:
    def create(pretrained: bool = False, **settings: Any) -> TransXNet:
        return _create(network, pretrained, **settings)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{network}, as ``transxnet models`` describes it."
    globals()[name] = register_model(create)  # timm adds the name to __all__


for _name in NETWORKS:
    _register(_name, _name)
for _name, _network in SHORT_NAMES.items():
    _register(_name, _network)


def create_model(name: str, *, checkpoint: Source | None = None, **settings: Any) -> TransXNet:
    """Create a classifier by its registered name, with the weights of a checkpoint if one is given.

    Args:
        name: A name as of ``transxnet models``, with or without a tag.
        checkpoint: A released file, one of ours, a run folder, a URL or a state dict. The number
            of classes, the input channels and the image size follow it unless they are given;
            another number of classes starts a new classifier, other input channels adapt the stem.
        **settings: Fields of :class:`~transxnet.config.TransXNetConfig`.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit.
        ConfigError: If the name or a setting is unknown, or a setting is out of range.
    """
    full_name(name)
    # timm drops what is None.
    settings = {name: SPELLED_NONE.get(name) if value is None else value for name, value in settings.items()}
    if checkpoint is not None:
        overlay: dict[str, Any] = dict(settings.pop("pretrained_cfg_overlay", None) or {})
        if isinstance(checkpoint, Mapping | Checkpoint):
            overlay["state_dict"] = checkpoint
        else:
            location = os.fspath(checkpoint)
            overlay["url" if "://" in location else "file"] = location
        settings |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    return cast(TransXNet, timm.create_model(name, **settings))


def load_model(checkpoint: str | Path | Checkpoint, **settings: Any) -> TransXNet:
    """Create the classifier that a checkpoint holds.

    Our files name their network; a released one is recognised by its sizes.

    Args:
        checkpoint: As of :func:`create_model`, but no state dict; or what was read from it.
        **settings: As of :func:`create_model`.

    Raises:
        CheckpointError: Also if the file does not say which network it holds.
    """
    read = read_checkpoint(checkpoint)
    _check_classifier(read)
    name = read.architecture or variant_of(read.state_dict)
    if not name:
        raise CheckpointError(
            f"{read.source} does not say which network it holds", "use create_model with a name", "name it with --model"
        )
    return create_model(name, checkpoint=read, **settings)
