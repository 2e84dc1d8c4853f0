"""Detectors and segmenters by name, with the weights of a released file or one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from transxnet.checkpoints.dense import BODY, from_released_dense, is_released_dense
from transxnet.checkpoints.fitting import fit
from transxnet.checkpoints.reading import Source, read_checkpoint
from transxnet.dense.backbone import create_backbone
from transxnet.dense.detection.mask_rcnn import MaskRCNN
from transxnet.dense.detection.retinanet import RetinaNet
from transxnet.dense.pyramid import P6P7, PyramidBackbone
from transxnet.dense.semantic_fpn import SemanticFPN
from transxnet.errors import CheckpointError, ConfigError


def create_segmenter(
    name: str = "semantic_fpn",
    *,
    backbone: str = "transxnet_tiny",
    num_classes: int = 150,
    checkpoint: Source | None = None,
    backbone_checkpoint: Source | None = None,
    **settings: Any,
) -> SemanticFPN:
    """Create a segmenter.

    Args:
        name: "semantic_fpn".
        backbone: The backbone's registered name.
        num_classes: Classes.
        checkpoint: A released segmenter's file or a state dict of ours.
        backbone_checkpoint: A classifier's or backbone's weights to start from.
        **settings: Fields of :class:`~transxnet.config.TransXNetConfig` for the backbone.

    Raises:
        CheckpointError: If a checkpoint cannot be read or does not fit.
        ConfigError: If a name or a setting is unknown or out of range.
    """
    if name != "semantic_fpn":
        raise ConfigError(f"there is no segmenter {name!r}; there is semantic_fpn")
    body = create_backbone(backbone, checkpoint=backbone_checkpoint, **settings)
    return _loaded(SemanticFPN(PyramidBackbone(body), num_classes), checkpoint)


def create_detector(
    name: Literal["retinanet", "mask_rcnn"] | str,
    *,
    backbone: str = "transxnet_tiny",
    num_classes: int = 80,
    checkpoint: Source | None = None,
    backbone_checkpoint: Source | None = None,
    **settings: Any,
) -> RetinaNet | MaskRCNN:
    """Create a detector.

    Args:
        name: "retinanet" or "mask_rcnn".
        backbone: The backbone's registered name.
        num_classes: Classes.
        checkpoint: A released detector's file or a state dict of ours.
        backbone_checkpoint: A classifier's or backbone's weights to start from.
        **settings: Fields of :class:`~transxnet.config.TransXNetConfig` for the backbone.

    Raises:
        CheckpointError: If a checkpoint cannot be read or does not fit.
        ConfigError: If a name or a setting is unknown or out of range.
    """
    if name == "retinanet":
        body = create_backbone(backbone, checkpoint=backbone_checkpoint, out_indices=(1, 2, 3), **settings)
        return _loaded(RetinaNet(PyramidBackbone(body, extra_blocks=P6P7), num_classes), checkpoint)
    if name == "mask_rcnn":
        body = create_backbone(backbone, checkpoint=backbone_checkpoint, **settings)
        pyramid = PyramidBackbone(body, extra_blocks=lambda *channels: LastLevelMaxPool())
        return _loaded(MaskRCNN(pyramid, num_classes), checkpoint)
    raise ConfigError(f"there is no detector {name!r}; there are retinanet and mask_rcnn")


Network = TypeVar("Network", bound=nn.Module)


def _loaded(model: Network, source: Source | None) -> Network:
    if source is None:
        return model
    read = read_checkpoint(source)
    weights = read.state_dict
    if is_released_dense(weights):
        weights = from_released_dense(weights)
    body = {n.removeprefix(BODY): t for n, t in weights.items() if n.startswith(BODY)}
    trunk = model.get_submodule(BODY.rstrip("."))
    fitted = fit(body, trunk, source=read.source)  # type: ignore[arg-type]
    rest = {name: tensor for name, tensor in weights.items() if not name.startswith(BODY)}
    _check(rest, model, read.source)
    model.load_state_dict({**rest, **{BODY + name: tensor for name, tensor in fitted.items()}})
    return model


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
                "classes that the file was trained for"
            )
