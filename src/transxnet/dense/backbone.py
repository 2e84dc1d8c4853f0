"""The network as a backbone: one normalised map for each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from transxnet.checkpoints.fitting import fit
from transxnet.checkpoints.reading import Source, read_checkpoint
from transxnet.config import TransXNetConfig, without_unset
from transxnet.errors import CheckpointError, ConfigError
from transxnet.layers import group_norm
from transxnet.model import Trunk, init_weights
from transxnet.zoo import NETWORKS, full_name

_CLASSIFIER = ("norm.", "head.")


class DenseBackbone(Trunk):
    """Stem and stages, each wanted stage's output with a normalisation of its own.

    Args:
        config: Sizes and settings; those of the classifier are not used.
        out_indices: Stages whose outputs are returned, in rising order.

    Attributes:
        channels: Channels of each output.
        strides: Input pixels for each step of each output.
    """

    def __init__(self, config: TransXNetConfig, out_indices: Sequence[int] = (0, 1, 2, 3)) -> None:
        super().__init__(config)
        indices = sorted(set(out_indices))
        if not indices or indices[0] < 0 or indices[-1] >= config.num_stages:
            raise ConfigError(f"out_indices are stages from 0 to {config.num_stages - 1}, not {tuple(out_indices)}")
        self.out_indices = tuple(indices)
        self.channels = tuple(config.channels[index] for index in indices)
        self.strides = tuple(config.strides[index] for index in indices)
        self.stages = self.stages[: indices[-1] + 1]
        self.norms = nn.ModuleDict({str(index): group_norm(config.channels[index]) for index in indices})
        self.apply(init_weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Shapes: (B, in_chans, H, W) to maps (B, C_i, ceil(H / stride_i), ceil(W / stride_i))."""
        maps = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                maps.append(self.norms[str(index)](x))
        return maps


def create_backbone(
    name: str, *, checkpoint: Source | None = None, out_indices: Sequence[int] = (0, 1, 2, 3), **settings: Any
) -> DenseBackbone:
    """Create a backbone for dense prediction.

    Args:
        name: A registered name.
        checkpoint: A classifier's or a backbone's weights, as of :func:`transxnet.create_model`.
            A classifier has no output normalisations; they then start as 1 and 0.
        out_indices: Stages whose outputs are returned.
        **settings: Fields of :class:`~transxnet.config.TransXNetConfig`.

    Raises:
        CheckpointError: If the checkpoint cannot be read or does not fit.
        ConfigError: If the name or a setting is unknown or out of range.
    """
    variant = full_name(name)
    read = read_checkpoint(checkpoint) if checkpoint is not None else None
    if read and read.architecture not in ("", variant):
        raise CheckpointError(
            f"{read.source} holds {read.architecture}, not {variant}",
            "create the one it holds",
            f"give --model {read.architecture}",
        )
    config = read.config if read and read.config else NETWORKS[variant]
    backbone = DenseBackbone(config.override(**without_unset(settings)), out_indices)
    if read:
        weights = {n: t for n, t in read.state_dict.items() if not n.startswith(_CLASSIFIER)}
        if not any(n.startswith("norms.") for n in weights):  # not a backbone's file
            weights |= {n: t for n, t in backbone.state_dict().items() if n.startswith("norms.")}
        stored_size = read.config.img_size if read.config else None
        fitted = fit(
            weights,
            backbone,
            source=read.source,
            stored_size=stored_size,
            keep_size=settings.get("img_size") is not None,
        )
        backbone.load_state_dict(fitted)
    return backbone
