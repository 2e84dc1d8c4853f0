"""The validated configuration of a TransXNet; ``VARIANTS`` is Table I of the paper."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from transxnet.bounds import (
    AttentionGroups,
    Channels,
    ClassCount,
    Depth,
    DropRate,
    Expansion,
    Heads,
    InputChannels,
    KernelSize,
    OpenShare,
    Reduction,
    ScaleInit,
    StoredSide,
    checked,
    described,
    kinds_of,
    shown,
)
from transxnet.errors import ConfigError
from transxnet.layers.position_bias import PositionBiasResize
from transxnet.layers.registry import FFNS, REGISTRIES, TOKEN_MIXERS, BlockSizes

Stem = Literal["overlapping", "patches"]
SpatialReduction = Literal["osr", "nsr"]
Enhancer = Literal["ste", "conv"]
PositionEncoding = Literal["dpe", "none"]

_CHOICES: dict[str, Any] = {
    "stem": Stem,
    "spatial_reduction": SpatialReduction,
    "enhancer": Enhancer,
    "position_encoding": PositionEncoding,
    "position_bias_resize": PositionBiasResize,
}
_PART_SETTINGS = tuple(f"{registry.field}_settings" for registry in REGISTRIES)
SPELLED_NONE: dict[str, Any] = {"layer_scale_init": "none", **{name: {} for name in _PART_SETTINGS}}
"""Settings that can be None, and another way to say so."""

_INTEGERS = ("depths", "channels", "heads", "reductions", "attention_groups", "kernel_sizes", "expansions")
_POOLS = ("avg", "max", "avgmax", "catavgmax", "")
_MAX_STAGES = 8
_MAX_SCALES = 16
_MAX_WEIGHTS = 2**30
_MAX_BIAS_BYTES = 4 * 2**30


@dataclass(frozen=True)
class TransXNetConfig:
    """Everything that is needed to build a network again.

    Fields in the plural hold one value for each stage; where every stage has the same value, a
    single number will do. The letters are those of Table I.

    Attributes:
        depths: Blocks in each stage.
        channels: Channels of each stage's map.
        heads: Attention heads of OSRA (H).
        reductions: Stride of OSRA's spatial reduction (S): 1 or an even number.
        attention_groups: Attention groups of IDConv (G).
        expansions: Expansion ratio of MS-FFN (E).
        kernel_sizes: Kernel size of IDConv (K), odd; kernel or window size of its alternatives.
        attention_shares: Share of the channels that OSRA receives, between 0 and 1; IDConv has
            the rest. The paper uses 0.5 everywhere and suggests one share for each stage.
        in_chans: Channels of the input image.
        num_classes: Outputs of the classifier; 0 leaves the classifier out.
        img_size: Height and width, in pixels, for which the position bias is stored.
        position_bias_resize: Resizing of the position bias for other image sizes. ``flattened``
            resizes the query x key map as one image, as the released networks do;
            ``geometric`` resamples it along the four spatial axes it really has.
        global_pool: timm's name of the pooling before the classifier; "" leaves it out.
        drop_rate: Dropout before the classifier.
        ffn_drop_rate: Dropout inside MS-FFN.
        drop_path_rate: Stochastic depth of the last block; the first has 0, linear between.
        layer_scale_init: Initial weight of the residual branches' scales; None, or "none" for timm, leaves them out.
        stem: ``overlapping`` patches, or ``patches`` side by side as in Table V.
        token_mixer: The D-Mixer, another of Table V, or one that was registered
            (:func:`transxnet.register_token_mixer`).
        local_operator: The D-Mixer's local half: IDConv, another of Table VI, or one that was registered.
        spatial_reduction: ``osr``, or ``nsr``, whose patches do not overlap (Table IX).
        enhancer: ``ste``, or one 1x1 ``conv`` (Table IX).
        ffn: ``ms_ffn``; ``pointwise``, the same without its depthwise convolutions (Table VII);
            ``vanilla``, two linear layers (Table V); or one that was registered.
        ffn_scales: Kernel sizes of MS-FFN, odd (Table VII).
        position_encoding: ``dpe``, or ``none`` (Table IX).
        token_mixer_settings: Settings of a token mixer that has any: an instance of the dataclass that it
            was registered with, or a mapping; None for the defaults.
        local_operator_settings: The same of the local operator.
        ffn_settings: The same of the feed-forward network.

    Raises:
        ConfigError: If a value is out of its range, or the values do not fit each other.
    """

    depths: tuple[Depth, ...]
    channels: tuple[Channels, ...]
    heads: tuple[Heads, ...]
    reductions: tuple[Reduction, ...]
    attention_groups: tuple[AttentionGroups, ...]
    expansions: tuple[Expansion, ...]
    kernel_sizes: tuple[KernelSize, ...] = (7,)
    attention_shares: tuple[OpenShare, ...] = (0.5,)
    in_chans: InputChannels = 3
    num_classes: ClassCount = 1000
    img_size: tuple[StoredSide, StoredSide] = (224, 224)
    position_bias_resize: PositionBiasResize = "flattened"
    global_pool: str = "avg"
    drop_rate: DropRate = 0.0
    ffn_drop_rate: DropRate = 0.0
    drop_path_rate: DropRate = 0.0
    layer_scale_init: ScaleInit | None = 1e-5
    stem: Stem = "overlapping"
    token_mixer: str = "d_mixer"
    local_operator: str = "idconv"
    spatial_reduction: SpatialReduction = "osr"
    enhancer: Enhancer = "ste"
    ffn: str = "ms_ffn"
    ffn_scales: tuple[KernelSize, ...] = (1, 3, 5, 7)
    position_encoding: PositionEncoding = "dpe"
    token_mixer_settings: Any = None
    local_operator_settings: Any = None
    ffn_settings: Any = None

    def __post_init__(self) -> None:
        count = len(checked("depths", _as_tuple("depths", self.depths, _MAX_STAGES), tuple[Depth, ...]))
        for name in (*_INTEGERS, "attention_shares"):
            object.__setattr__(self, name, _for_each_stage(name, getattr(self, name), count))
        if self.layer_scale_init == SPELLED_NONE["layer_scale_init"]:
            object.__setattr__(self, "layer_scale_init", None)
        object.__setattr__(self, "img_size", _pair("img_size", self.img_size))
        object.__setattr__(self, "ffn_scales", _as_tuple("ffn_scales", self.ffn_scales, _MAX_SCALES))
        self._check_choices()
        for registry in REGISTRIES:
            name = f"{registry.field}_settings"
            settings = registry.settings(getattr(self, registry.field), getattr(self, name))
            object.__setattr__(self, name, settings)
        for name, kind in kinds_of(type(self)).items():
            if name not in _PART_SETTINGS:
                checked(name, getattr(self, name), kind)
        self._check_stages()
        self._check_memory()

    def _check_stages(self) -> None:
        for stage in range(self.num_stages):
            where = f"stage {stage}"
            reduction, kernel = self.reductions[stage], self.kernel_sizes[stage]
            if reduction > 1 and reduction % 2:
                raise ConfigError(f"{where}: reductions must be 1 or even, not {reduction}")
            if kernel % 2 == 0:
                raise ConfigError(f"{where}: kernel_sizes must be odd, not {kernel}")
            try:
                TOKEN_MIXERS.check(self.sizes(stage))
                FFNS.check(self.sizes(stage))
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from error
        if not all(scale % 2 for scale in self.ffn_scales):
            raise ConfigError(f"ffn_scales must be odd, not {self.ffn_scales}; ffn='pointwise' has none")

    def _check_choices(self) -> None:
        if self.global_pool not in _POOLS:
            raise ConfigError(f"global_pool is one of {', '.join(map(repr, _POOLS))}, not {shown(self.global_pool)}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"{name} is {described(choices)}, not {shown(getattr(self, name))}")

    def _check_memory(self) -> None:
        """Refuse what no machine should be asked for, before anything is allocated."""
        if self.num_classes and not self.global_pool:
            raise ConfigError("a classifier needs a global_pool; without one, num_classes must be 0")
        if (weights := self.approximate_weights) > _MAX_WEIGHTS:
            sizes = "depths, channels and expansions"
            raise ConfigError(f"these {sizes} make about {weights:,} weights; there may be {_MAX_WEIGHTS:,}")
        if (size := self.position_bias_bytes) > _MAX_BIAS_BYTES:
            height, width = self.img_size
            raise ConfigError(
                f"position biases stored for an img_size of {height} x {width} take {size / 2**30:,.1f} GiB, and at "
                f"most {_MAX_BIAS_BYTES // 2**30} GiB are stored; take a smaller img_size: biases are resized to each "
                "image's size"
            )

    @property
    def num_stages(self) -> int:
        return len(self.depths)

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels for each step of a stage's map: 4, 8, 16, 32."""
        return tuple(4 * 2**stage for stage in range(self.num_stages))

    def attention_channels(self, stage: int) -> int:
        """Channels that OSRA receives in a stage; the others go to IDConv."""
        return round(self.channels[stage] * self.attention_shares[stage])

    def sizes(self, stage: int, block: int = 0) -> BlockSizes:
        """Sizes of a block, by the indices of its stage and of the block in it."""
        return BlockSizes(self, stage, block, self.channels[stage])

    @property
    def has_position_bias(self) -> bool:
        """Whether the token mixer uses a position bias."""
        return TOKEN_MIXERS.find(self.token_mixer).position_bias

    def grid(self, stage: int) -> tuple[int, int]:
        """Height and width of a stage's map at ``img_size``."""
        height, width = (-(-size // self.strides[stage]) for size in self.img_size)
        return height, width

    @property
    def position_bias_bytes(self) -> int:
        """Bytes of all stored position biases in float32."""
        if not self.has_position_bias:
            return 0
        total = 0
        for stage, (heads, reduction) in enumerate(zip(self.heads, self.reductions, strict=True)):
            height, width = self.grid(stage)
            total += 4 * heads * height * width * -(-height // reduction) * -(-width // reduction)
        return total

    @property
    def approximate_weights(self) -> int:
        """Number of weights, by rule of thumb: what grows with the square of the channels, and the kernels."""
        total = self.channels[-1] * self.num_classes + 49 * self.in_chans * self.channels[0]
        kernels = sum(scale**2 for scale in self.ffn_scales)
        for stage, (depth, channels, expansion) in enumerate(
            zip(self.depths, self.channels, self.expansions, strict=True)
        ):
            bank = self.attention_groups[stage] * (self.kernel_sizes[stage] ** 2 + channels // 4)
            total += depth * channels * (channels * (2 * expansion + 2) + expansion * kernels + bank + 49)
        return total

    def override(self, **changes: Any) -> Self:
        """The same configuration with some fields changed; another part begins with its own settings.

        Raises:
            ConfigError: As the class, or if a name is not a field; the nearest field is suggested.
        """
        _check_names(changes)
        fresh = {
            f"{registry.field}_settings": None
            for registry in REGISTRIES
            if changes.get(registry.field, getattr(self, registry.field)) != getattr(self, registry.field)
        }
        return dataclasses.replace(self, **fresh | changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as for JSON or YAML; settings of parts that have none are left out."""
        plain = dataclasses.asdict(self)
        return {name: _plain(value) for name, value in plain.items() if name not in _PART_SETTINGS or value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransXNetConfig:
        """The inverse of :meth:`to_dict`; raises as :meth:`override`."""
        missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in values]
        if missing:
            raise ConfigError(f"the configuration lacks {', '.join(missing)}")
        _check_names(values)
        return cls(**values)


def without_unset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are None, unless that is a value of the setting."""
    return {name: value for name, value in settings.items() if value is not None or name in SPELLED_NONE}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _check_names(values: Iterable[str]) -> None:
    names = [field.name for field in dataclasses.fields(TransXNetConfig)]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
            raise ConfigError(f"TransXNet has no setting {name!r}{hint}")


def _as_tuple(name: str, value: Any, most: int) -> tuple[Any, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (value,)
    if not 0 < len(value) <= most:
        raise ConfigError(f"{name} needs 1 to {most} values, not {len(value):,}")
    return tuple(value)


def _for_each_stage(name: str, value: Any, count: int) -> tuple[Any, ...]:
    values = _as_tuple(name, value, _MAX_STAGES)
    if len(values) == 1:
        values *= count
    if len(values) != count:
        raise ConfigError(f"{name} needs one value for each of the {count} stages, or one for all, not {len(values)}")
    return values


def _pair(name: str, value: Any) -> tuple[int, int]:
    values = _as_tuple(name, value, _MAX_STAGES)
    if len(values) == 1:
        values *= 2
    if len(values) != 2:
        raise ConfigError(f"{name} is one or two positive whole numbers (height, width), not {len(values)} values")
    return values[0], values[1]


VARIANTS: dict[str, TransXNetConfig] = {
    "transxnet_nano": TransXNetConfig(
        depths=(1, 1, 3, 1),
        channels=(24, 48, 96, 160),
        heads=(1, 2, 4, 5),
        reductions=(8, 4, 2, 1),
        attention_groups=(2, 2, 2, 2),
        expansions=(3, 3, 3, 3),
    ),
    "transxnet_tiny": TransXNetConfig(
        depths=(3, 3, 9, 3),
        channels=(48, 96, 224, 448),
        heads=(1, 2, 4, 8),
        reductions=(8, 4, 2, 1),
        attention_groups=(2, 2, 2, 2),
        expansions=(4, 4, 4, 4),
    ),
    "transxnet_small": TransXNetConfig(
        depths=(4, 4, 12, 4),
        channels=(64, 128, 320, 512),
        heads=(1, 2, 5, 8),
        reductions=(8, 4, 2, 1),
        attention_groups=(2, 2, 3, 4),
        expansions=(6, 6, 4, 4),
    ),
    "transxnet_base": TransXNetConfig(
        depths=(4, 4, 21, 4),
        channels=(76, 152, 336, 672),
        heads=(2, 4, 8, 16),
        reductions=(8, 4, 2, 1),
        attention_groups=(2, 2, 4, 4),
        expansions=(8, 8, 4, 4),
    ),
}
"""Table I; ``transxnet_nano`` is not in the paper but small enough to learn on two CPU cores."""
