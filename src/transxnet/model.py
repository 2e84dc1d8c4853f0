"""TransXNet: figure 3 of the paper, read from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from timm.layers import ClassifierHead
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from transxnet.config import TransXNetConfig
from transxnet.layers import Block, DepthwiseConv2d, PatchEmbed, PatchStem, PositionBias, Stage, group_norm, is_fused
from transxnet.layers.norm import restore_batch_norms
from transxnet.layers.registry import FFNS, TOKEN_MIXERS, BlockSizes

try:  # it records sizes of images in timm's description of a network; this is private
    from timm.models._input import update_model_input_size
except ImportError:

    def update_model_input_size(model: nn.Module, img_size: int | Sequence[int] | None, **model_args: Any) -> None:
        """Do nothing where timm has no such function, which other releases may move."""


class Trunk(nn.Module):
    """Stem and stages: what the classifier and the dense backbone share.

    Args:
        config: Sizes and settings.

    Attributes:
        config: The configuration, kept true when the network is changed.
        feature_info: timm's description of the stages' outputs.
    """

    def __init__(self, config: TransXNetConfig) -> None:
        super().__init__()
        self.config = config
        self.in_chans = config.in_chans
        self.stem = _stem(config)
        self.stages = nn.Sequential(*_stages(config))
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": channels, "reduction": stride, "module": f"stages.{stage}"}
            for stage, (channels, stride) in enumerate(zip(config.channels, config.strides, strict=True))
        ]

    @property
    def stage_list(self) -> list[Stage]:
        """The stages, with their type."""
        return [stage for stage in self.stages if isinstance(stage, Stage)]

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Store the position biases for another image size, for example to fine-tune at 384 x 384.

        The new parameters are resized from the old ones as ``position_bias_resize`` says, so the
        network's outputs at the new size do not change; an optimizer must be made afterwards.

        Args:
            img_size: Height and width in pixels, or one number for both.
        """
        self.config = self.config.override(img_size=img_size)
        for index, stage in enumerate(self.stage_list):
            if stage.position_bias is not None:
                stage.position_bias.set_grid(self.config.grid(index))
        update_model_input_size(self, self.config.img_size)
        self.update_description(self.config.img_size)

    def update_description(self, size: tuple[int, int] | None = None) -> None:
        """Make timm's description, if the network has one, agree with the configuration.

        Args:
            size: Height and width of the images to evaluate with, if they change.
        """

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode, and undo what timm's ``unfreeze`` did to batch normalisation."""
        restore_batch_norms(self)
        return super().train(mode)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations."""
        for stage in self.stage_list:
            stage.grad_checkpointing = enable


class TransXNet(Trunk):
    """The network of figure 3, with timm's interface.

    Args:
        config: Sizes and settings.

    Attributes:
        num_features: Channels of the last stage.
        pretrained_cfg: timm's description: preprocessing, classes and where the weights are from. It follows
            :meth:`set_input_size` and :meth:`reset_classifier`.
        default_cfg: The same, under timm's older name.
    """

    pretrained_cfg: dict[str, Any]
    default_cfg: dict[str, Any]

    def __init__(self, config: TransXNetConfig) -> None:
        super().__init__(config)
        self.pretrained_cfg = {"first_conv": "stem.conv", "classifier": "head.fc"}
        self.update_description(config.img_size)
        self.num_classes = config.num_classes
        self.num_features = self.head_hidden_size = config.channels[-1]
        self.norm: nn.Module = group_norm(self.num_features)
        self.head = ClassifierHead(self.num_features, config.num_classes, config.global_pool, config.drop_rate)
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores. Shapes: (B, in_chans, H, W), H and W at least 32, to (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The normalised last map. Shapes: (B, in_chans, H, W) to (B, C, ceil(H / 32), ceil(W / 32))."""
        return self.norm(self.stages(self.stem(x)))  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify. Shapes: (B, C, H, W) to (B, num_classes), or (B, C) with ``pre_logits``."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)  # type: ignore[no-any-return]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The stages' outputs beside the final features.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Stages to return: all if None, the last n if a number, or those listed.
            norm: Apply the final normalisation to the last stage's output.
            stop_early: Do not run stages after the last one asked for.
            output_fmt: Only "NCHW".
            intermediates_only: Return the list alone.

        Returns:
            The final features as of :meth:`forward_features` (with ``stop_early``, the last map
            that was computed), and a list of maps (B, C, H', W').

        Raises:
            ValueError: If ``output_fmt`` is not "NCHW".
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is always NCHW here, not {output_fmt}")
        take, last = feature_take_indices(len(self.stages), indices)
        final = len(self.stages) - 1
        maps = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if index in take:
                maps.append(self.norm(x) if norm and index == final else x)
        if intermediates_only:
            return maps
        return (self.norm(x) if index == final else x), maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the layers after the given stages' outputs; returns the stages' indices."""
        take, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if shortened:
            self.num_features = self.head_hidden_size = self.config.channels[last]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return list(take)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.fc  # type: ignore[no-any-return]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by an untrained one; 0 classes leave the pooled features.

        Raises:
            ConfigError: If an argument is out of range; the network is then as it was.
        """
        pool = self.config.global_pool if global_pool is None else global_pool
        self.config = self.config.override(num_classes=num_classes, global_pool=pool)  # checks them
        self.num_classes = num_classes
        self.head.in_features = self.num_features
        self.head.reset(num_classes, global_pool)
        self.head.fc.apply(init_weights)
        self.update_description()

    def update_description(self, size: tuple[int, int] | None = None) -> None:
        """As of :class:`Trunk`. Names of classes are dropped if there are no longer as many classes."""
        cfg, config = dict(self.pretrained_cfg), self.config
        height, width = size or tuple(cfg.get("input_size") or ())[1:] or config.img_size
        stride = config.strides[len(self.stages) - 1]
        cfg |= {
            "input_size": (config.in_chans, height, width),
            "min_input_size": (config.in_chans, 32, 32),
            "pool_size": (-(-height // stride), -(-width // stride)),
            "num_classes": config.num_classes,
        }
        cfg |= {name: _for_channels(cfg[name], config.in_chans) for name in ("mean", "std") if cfg.get(name)}
        if size is not None:  # no longer those of the weights
            cfg = {name: value for name, value in cfg.items() if name not in ("test_input_size", "test_pool_size")}
        if len(cfg.get("label_names") or ()) not in (0, config.num_classes):
            cfg = {name: value for name, value in cfg.items() if not name.startswith("label_")}
        self.pretrained_cfg = self.default_cfg = cfg

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm groups parameters for layer-wise learning rates, by stage (coarse) or by block."""
        fine = [
            (r"^stages\.(\d+)\.(?:downsample|position_bias)", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^norm", (99999,)),
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else fine}

    def no_weight_decay(self) -> set[str]:
        """Biases of more than one dimension, which timm's layer-wise groups would decay otherwise."""
        return {name for name, parameter in self.named_parameters() if name.endswith(".bias") and parameter.ndim > 1}


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Means or deviations of each channel; where there are others than the values', their average."""
    if len(values) == channels:
        return tuple(values)
    return (sum(values) / len(values),) * channels


def _stem(config: TransXNetConfig) -> PatchEmbed | PatchStem:
    if config.stem == "patches":
        return PatchStem(config.in_chans, config.channels[0])
    return PatchEmbed(config.in_chans, config.channels[0], kernel_size=7, stride=4)


def _stages(config: TransXNetConfig) -> list[Stage]:
    depth = sum(config.depths)
    rates = [config.drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
    stages = []
    for index, channels in enumerate(config.channels):
        downsample = nn.Identity() if index == 0 else PatchEmbed(config.channels[index - 1], channels, 3, stride=2)
        first = sum(config.depths[:index])
        blocks = [_block(config.sizes(index, block), rates[first + block]) for block in range(config.depths[index])]
        stages.append(Stage(downsample, _position_bias(config, index), blocks))
    return stages


def _block(sizes: BlockSizes, drop_path: float) -> Block:
    return Block(
        sizes.channels,
        token_mixer=TOKEN_MIXERS.build(sizes),
        ffn=FFNS.build(sizes),
        position_encoding=DepthwiseConv2d(sizes.channels, 7) if sizes.config.position_encoding == "dpe" else None,
        drop_path=drop_path,
        layer_scale_init=sizes.config.layer_scale_init,
    )


def _position_bias(config: TransXNetConfig, stage: int) -> PositionBias | None:
    if not config.has_position_bias:
        return None
    return PositionBias(config.heads[stage], config.grid(stage), config.reductions[stage], config.position_bias_resize)


def init_weights(module: nn.Module) -> None:
    """Convolutions and linear layers: truncated normal of deviation 0.02, biases 0; others: their ``init_weights``."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif callable(own := getattr(module, "init_weights", None)):  # timm's name; after the module's children
        own()


__all__ = ["Block", "PatchEmbed", "Stage", "TransXNet", "Trunk", "init_weights", "is_fused"]
