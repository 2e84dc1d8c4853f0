"""Detectors and segmenters by name, or from a released file or one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from transxnet.bounds import DenseClasses, PyramidChannels, checked, shown
from transxnet.checkpoints.fitting import fit, square_size, variant_of
from transxnet.checkpoints.reading import Checkpoint, Source, read_checkpoint
from transxnet.checkpoints.released_dense import BODY, from_released_dense, is_released_dense
from transxnet.checkpoints.size_checks import unallocated
from transxnet.checkpoints.tensors import check_values
from transxnet.checkpoints.values import reading_metadata
from transxnet.dense.backbone import create_backbone
from transxnet.dense.head_description import HeadDescription, check_head, describe_weights
from transxnet.dense.protocol import DenseNetwork, Detector, Segmenter
from transxnet.dense.registry import NOUNS, Task, kind_of, network_class
from transxnet.errors import CheckpointError, ConfigError
from transxnet.zoo import NETWORKS, full_name

_COLOURS = 3


def create_segmenter(
    name: str = "semantic_fpn",
    *,
    backbone: str = "transxnet_tiny",
    num_classes: int = 150,
    checkpoint: Source | None = None,
    backbone_checkpoint: Source | None = None,
    pyramid_channels: int = 256,
    **settings: Any,
) -> Segmenter:
    """Create a segmenter.

    Args:
        name: "semantic_fpn", or the name of a registered segmenter.
        backbone: The backbone's registered name.
        num_classes: Classes.
        checkpoint: A released segmenter's file, one of ours or a state dict.
        backbone_checkpoint: A classifier's or backbone's weights to start from.
        pyramid_channels: Channels of the feature pyramid.
        **settings: Fields of :class:`~transxnet.config.TransXNetConfig` for the backbone.

    Raises:
        CheckpointError: If a checkpoint cannot be read or does not fit.
        ConfigError: If a name or a setting is unknown or out of range.
    """
    head = _default_head("segmentation", name, num_classes, pyramid_channels)
    return cast(Segmenter, create_dense(head, backbone, checkpoint, backbone_checkpoint, **settings))


def create_detector(
    name: str,
    *,
    backbone: str = "transxnet_tiny",
    num_classes: int = 80,
    checkpoint: Source | None = None,
    backbone_checkpoint: Source | None = None,
    pyramid_channels: int = 256,
    **settings: Any,
) -> Detector:
    """Create a detector.

    Args:
        name: "retinanet", "mask_rcnn", or the name of a registered detector.
        backbone: The backbone's registered name.
        num_classes: Classes.
        checkpoint: A released detector's file, one of ours or a state dict.
        backbone_checkpoint: A classifier's or backbone's weights to start from.
        pyramid_channels: Channels of the feature pyramid and of the heads' convolutions.
        **settings: Fields of :class:`~transxnet.config.TransXNetConfig` for the backbone.

    Raises:
        CheckpointError: If a checkpoint cannot be read or does not fit.
        ConfigError: If a name or a setting is unknown or out of range.
    """
    head = _default_head("detection", name, num_classes, pyramid_channels)
    return cast(Detector, create_dense(head, backbone, checkpoint, backbone_checkpoint, **settings))


def _default_head(task: Task, name: str, num_classes: int, pyramid_channels: int) -> HeadDescription:
    network = network_class(name, task)
    checked("num_classes", num_classes, DenseClasses)
    checked("pyramid_channels", pyramid_channels, PyramidChannels)
    return network.default_head(num_classes, pyramid_channels)


def load_detector(checkpoint: Source) -> Detector:
    """Load the detector in a released file or one of ours, in evaluation mode; its kind is read from the file.

    Raises:
        CheckpointError: If it cannot be read, or holds something else.
    """
    return cast(Detector, _load_for("detection", checkpoint))


def load_segmenter(checkpoint: Source) -> Segmenter:
    """Load the segmenter in a released file or one of ours, in evaluation mode; its kind is read from the file.

    Raises:
        CheckpointError: If it cannot be read, or holds something else.
    """
    return cast(Segmenter, _load_for("segmentation", checkpoint))


def _load_for(task: Task, checkpoint: Source) -> DenseNetwork:
    model = load_dense(checkpoint)
    if model.task != task:
        noun = NOUNS[model.task]
        raise CheckpointError(f"{_name(checkpoint)} holds a {noun}", f"transxnet.load_{noun} loads it")
    return model


def load_dense(checkpoint: Source) -> DenseNetwork:
    """The detector or segmenter in a released file or one of ours, in evaluation mode.

    Raises:
        CheckpointError: If it cannot be read, or holds neither.
    """
    read = read_checkpoint(checkpoint)
    weights = _our_names(read)
    if not holds_dense(read):
        raise CheckpointError(
            f"{read.source} holds no detector and no segmenter", "transxnet.load_model loads classifiers"
        )
    described_in = read.described_in or read.source
    with reading_metadata(described_in):
        head = (
            HeadDescription.from_dict(read.head, described_in) if read.head else describe_weights(weights, read.source)
        )
    check_head(head, weights, described_in)
    _check_preprocessing(head, read)
    body = _body(weights)
    variant = read.architecture or variant_of(body)
    if not variant:
        raise CheckpointError(
            f"{read.source} holds a {head.kind} on a backbone of unknown size",
            "create it and load the state",
            "create it in Python, load its state and save it with save_model",
        )
    config = read.config or NETWORKS[variant].override(img_size=_stored_size(body, variant))
    settings = {name: value for name, value in config.to_dict().items() if value != NETWORKS[variant].to_dict()[name]}
    with unallocated(read.source):
        planned = create_dense(head, variant, None, None, **settings)
    _check(_rest(weights), planned, read.source)
    return create_dense(head, variant, read, None, **settings).eval()


def _check_preprocessing(head: HeadDescription, read: Checkpoint) -> None:
    """Refuse a file that describes another normalisation than the network's own, with which it would be wrong."""
    for name, value in read.pretrained_cfg.items():
        own = getattr(head.network, name, None)
        if name in ("mean", "std") and list(own or ()) != value:
            raise CheckpointError(
                f"{read.described_in}: its {name} is {shown(value)}, but a {head.kind} has {shown(list(own or ()))}"
            )


def holds_dense(read: Checkpoint) -> bool:
    """Whether a file that was read holds a detector or a segmenter."""
    return bool(read.head or kind_of(_our_names(read)))


def create_dense(
    head: HeadDescription,
    backbone: str,
    checkpoint: Source | None = None,
    backbone_checkpoint: Source | None = None,
    *,
    new_classes: bool = False,
    **settings: Any,
) -> DenseNetwork:
    """Create a network by its head's description.

    Args:
        head: Description of the network and its head.
        backbone: The backbone's registered name.
        checkpoint: The whole network's weights to start from.
        backbone_checkpoint: A classifier's or backbone's weights to start from.
        new_classes: Whether layers that depend on the classes keep their random weights.
        **settings: Fields of :class:`~transxnet.config.TransXNetConfig` for the backbone.

    Raises:
        CheckpointError: If a checkpoint cannot be read or does not fit.
        ConfigError: If a name or a setting is unknown or out of range.
    """
    network = head.network
    body = create_backbone(backbone, checkpoint=backbone_checkpoint, out_indices=network.out_indices, **settings)
    if body.config.in_chans != _COLOURS:
        noun = NOUNS[network.task]
        raise ConfigError(f"a {noun} takes images of {_COLOURS} channels; in_chans is not {body.config.in_chans}")
    model = network.build(body, head)
    model.head_description, model.architecture = head, full_name(backbone)
    if checkpoint is not None:
        left = network.class_layers if new_classes else ()
        _load(model, read_checkpoint(checkpoint), left, settings.get("img_size") is not None)
    return model


def _load(model: DenseNetwork, read: Checkpoint, left: tuple[str, ...], keep_size: bool) -> None:
    weights = _our_names(read)
    if left:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith(left)}
        weights |= {name: tensor for name, tensor in model.state_dict().items() if name.startswith(left)}
    stored, body = read.config.img_size if read.config else None, model.backbone.body
    fitted = fit(_body(weights), body, source=read.source, stored_size=stored, keep_size=keep_size)
    rest = _rest(weights)
    _check(rest, model, read.source)
    check_values(rest, model.state_dict(), read.source)
    model.load_state_dict({**rest, **{BODY + name: tensor for name, tensor in fitted.items()}})


def _check(weights: Mapping[str, Tensor], model: nn.Module, source: str) -> None:
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items() if not name.startswith(BODY)}
    missing, unexpected = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
    kind = type(model).__name__
    if missing or unexpected:
        lists = [f"{len(names)} {what} ({', '.join(names[:3])})"
                 for what, names in (("missing", missing), ("unexpected", unexpected)) if names]  # fmt: skip
        raise CheckpointError(f"{source} is not a {kind}'s: {' and '.join(lists)} entries")
    for name, shape in wanted.items():
        if weights[name].shape != shape:
            raise CheckpointError(
                f"{source}: {name} is {tuple(weights[name].shape)}, but {tuple(shape)} is wanted; give the number of "
                "classes and the pyramid_channels that the file was trained for"
            )


def _our_names(read: Checkpoint) -> dict[str, Tensor]:
    if not is_released_dense(read.state_dict):
        return read.state_dict
    with reading_metadata(read.source):
        return from_released_dense(read.state_dict)


def _rest(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries that are not the backbone's."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(BODY)}


def _body(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(BODY): tensor for name, tensor in weights.items() if name.startswith(BODY)}


def _stored_size(body: Mapping[str, Tensor], variant: str) -> tuple[int, int]:
    return square_size(body, NETWORKS[variant]) or NETWORKS[variant].img_size


def _name(checkpoint: Source) -> str:
    if isinstance(checkpoint, Checkpoint):
        return checkpoint.source
    return "the state dict" if isinstance(checkpoint, Mapping) else str(checkpoint)
