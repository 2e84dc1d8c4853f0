"""The validated configuration of a TransXNet; ``VARIANTS`` is Table I of the paper."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from transxnet.errors import ConfigError

PositionBiasResize = Literal["flattened", "geometric"]
Stem = Literal["overlapping", "patches"]
TokenMixer = Literal["d_mixer", "sep_conv", "sra", "swin", "mixing_block", "acmix"]
LocalOperator = Literal["idconv", "dwconv", "dyconv", "window_attention", "d_dwconv"]
SpatialReduction = Literal["osr", "nsr"]
Enhancer = Literal["ste", "conv"]
FeedForward = Literal["ms_ffn", "pointwise", "vanilla"]
PositionEncoding = Literal["dpe", "none"]

_CHOICES: dict[str, Any] = {
    "stem": Stem,
    "token_mixer": TokenMixer,
    "local_operator": LocalOperator,
    "spatial_reduction": SpatialReduction,
    "enhancer": Enhancer,
    "ffn": FeedForward,
    "position_encoding": PositionEncoding,
    "position_bias_resize": PositionBiasResize,
}
_INTEGERS = ("depths", "channels", "heads", "reductions", "attention_groups", "kernel_sizes", "expansions")
_POOLS = ("avg", "max", "avgmax", "catavgmax", "")
_RATES = ("drop_rate", "ffn_drop_rate", "drop_path_rate")
# Name and least number of channels: those that a squeeze inside leaves at least one of.
_LOCAL_CHANNELS: dict[str, tuple[str, int]] = {
    "idconv": ("IDConv", 4),
    "dwconv": ("DWConv", 1),
    "dyconv": ("DyConv", 1),
    "window_attention": ("window attention", 1),
    "d_dwconv": ("D-DWConv", 8),
}


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
        kernel_sizes: Kernel size of IDConv (K), odd; kernel or window size of what stands in its place.
        attention_shares: Share of the channels that OSRA receives, between 0 and 1; IDConv has
            the rest. The paper uses 0.5 everywhere and suggests one share for each stage.
        in_chans: Channels of the input image.
        num_classes: Outputs of the classifier; 0 leaves the classifier out.
        img_size: Height and width, in pixels, for which the position bias is stored.
        position_bias_resize: What to do with the position bias at another size. ``flattened``
            resizes the query x key map as one picture, as the released networks do;
            ``geometric`` resamples it along the four spatial axes it really has.
        global_pool: timm's name of the pooling before the classifier; "" leaves it out.
        drop_rate: Dropout before the classifier.
        ffn_drop_rate: Dropout inside MS-FFN.
        drop_path_rate: Stochastic depth of the last block; the first has 0, linear between.
        layer_scale_init: Initial weight of the scales of the residual branches; None leaves them out.
        stem: ``overlapping`` patches, or ``patches`` side by side as in Table V.
        token_mixer: The D-Mixer, or another of Table V.
        local_operator: The D-Mixer's local half: IDConv, or another of Table VI.
        spatial_reduction: ``osr``, or ``nsr``, whose patches do not overlap (Table IX).
        enhancer: ``ste``, or one 1x1 ``conv`` (Table IX).
        ffn: ``ms_ffn``; ``pointwise``, the same without its depthwise convolutions (Table VII); or
            ``vanilla``, two linear layers (Table V).
        ffn_scales: Kernel sizes of MS-FFN, odd (Table VII).
        position_encoding: ``dpe``, or ``none`` (Table IX).

    Raises:
        ConfigError: If a value is out of its range, or the values do not fit each other.
    """

    depths: tuple[int, ...]
    channels: tuple[int, ...]
    heads: tuple[int, ...]
    reductions: tuple[int, ...]
    attention_groups: tuple[int, ...]
    expansions: tuple[int, ...]
    kernel_sizes: tuple[int, ...] = (7,)
    attention_shares: tuple[float, ...] = (0.5,)
    in_chans: int = 3
    num_classes: int = 1000
    img_size: tuple[int, int] = (224, 224)
    position_bias_resize: PositionBiasResize = "flattened"
    global_pool: str = "avg"
    drop_rate: float = 0.0
    ffn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    layer_scale_init: float | None = 1e-5
    stem: Stem = "overlapping"
    token_mixer: TokenMixer = "d_mixer"
    local_operator: LocalOperator = "idconv"
    spatial_reduction: SpatialReduction = "osr"
    enhancer: Enhancer = "ste"
    ffn: FeedForward = "ms_ffn"
    ffn_scales: tuple[int, ...] = (1, 3, 5, 7)
    position_encoding: PositionEncoding = "dpe"

    def __post_init__(self) -> None:
        count = len(_as_tuple(self.depths))
        for name in (*_INTEGERS, "attention_shares"):
            object.__setattr__(self, name, _for_each_stage(name, getattr(self, name), count))
        object.__setattr__(self, "img_size", _pair("img_size", self.img_size))
        object.__setattr__(self, "ffn_scales", _as_tuple(self.ffn_scales))
        self._check_network()
        self._check_stages()

    def _check_stages(self) -> None:
        for name in _INTEGERS:
            for value in getattr(self, name):
                if not _whole(value, 1):
                    raise ConfigError(f"{name} must be whole numbers of at least 1, not {getattr(self, name)}")
        for stage in range(self.num_stages):
            where = f"stage {stage}"
            reduction, kernel = self.reductions[stage], self.kernel_sizes[stage]
            if reduction > 1 and reduction % 2:
                raise ConfigError(f"{where}: reductions must be 1 or even, not {reduction}")
            if kernel % 2 == 0:
                raise ConfigError(f"{where}: kernel_sizes must be odd, not {kernel}")
            share = self.attention_shares[stage]
            if not _number(share) or not 0 < share < 1:
                raise ConfigError(
                    f"{where}: attention_shares must lie between 0 and 1 (both parts of the D-Mixer get "
                    f"channels), not {share}"
                )
            if self.token_mixer == "d_mixer":
                self._check_d_mixer(stage, where)
            else:
                self._check_token_mixer(stage, where)

    def _check_d_mixer(self, stage: int, where: str) -> None:
        channels, heads = self.channels[stage], self.heads[stage]
        attended = self.attention_channels(stage)
        if attended < 1 or attended == channels or attended % heads:
            raise ConfigError(
                f"{where}: a share of {self.attention_shares[stage]} gives OSRA {attended} of "
                f"{channels} channels, which {heads} heads cannot divide evenly"
            )
        local, (name, least) = channels - attended, _LOCAL_CHANNELS[self.local_operator]
        if local < least:
            raise ConfigError(f"{where}: {name} needs at least {least} channels")
        if self.local_operator == "window_attention" and local % heads:
            raise ConfigError(f"{where}: {heads} heads cannot divide the {local} channels of window attention evenly")

    def _check_token_mixer(self, stage: int, where: str) -> None:
        channels, heads = self.channels[stage], self.heads[stage]
        if self.token_mixer != "sep_conv" and channels % heads:
            raise ConfigError(f"{where}: {heads} heads cannot divide {channels} channels evenly")
        if self.token_mixer == "mixing_block" and (channels < 16 or channels % (2 * heads)):
            raise ConfigError(
                f"{where}: the mixing block needs at least 16 channels, half of which the {heads} heads divide evenly, "
                f"not {channels}"
            )

    def _check_network(self) -> None:
        for name, least in (("in_chans", 1), ("num_classes", 0)):
            if not _whole(getattr(self, name), least):
                raise ConfigError(f"{name} must be a whole number of at least {least}, not {getattr(self, name)!r}")
        if self.global_pool not in _POOLS:
            raise ConfigError(f"global_pool is one of {', '.join(map(repr, _POOLS))}, not {self.global_pool!r}")
        if self.num_classes and not self.global_pool:
            raise ConfigError("a classifier needs a global_pool; without one, num_classes must be 0")
        if self.layer_scale_init is not None and not _number(self.layer_scale_init):
            raise ConfigError(f"layer_scale_init must be a number or None, not {self.layer_scale_init!r}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in (known := get_args(choices)):
                listed = f"{', '.join(json.dumps(choice) for choice in known[:-1])} or {json.dumps(known[-1])}"
                raise ConfigError(f"{name} is {listed}, not {getattr(self, name)!r}")
        if not self.ffn_scales or not all(_whole(scale, 1) and scale % 2 for scale in self.ffn_scales):
            raise ConfigError(
                f"ffn_scales must be odd whole numbers, at least one, not {self.ffn_scales}; ffn='pointwise' has none"
            )
        for name in _RATES:
            if not _number(getattr(self, name)) or not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, not {getattr(self, name)!r}")

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

    def grid(self, stage: int) -> tuple[int, int]:
        """Height and width of a stage's map at ``img_size``."""
        height, width = (-(-size // self.strides[stage]) for size in self.img_size)
        return height, width

    def override(self, **changes: Any) -> Self:
        """The same configuration with some fields changed.

        Raises:
            ConfigError: As the class, or if a name is not a field; the nearest field is suggested.
        """
        _check_names(changes)
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as for JSON or YAML."""
        plain = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransXNetConfig:
        """The inverse of :meth:`to_dict`; raises as :meth:`override`."""
        missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in values]
        if missing:
            raise ConfigError(f"the configuration lacks {', '.join(missing)}")
        _check_names(values)
        return cls(**values)


def _check_names(values: Iterable[str]) -> None:
    names = [field.name for field in dataclasses.fields(TransXNetConfig)]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
            raise ConfigError(f"TransXNet has no setting {name!r}{hint}")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def _for_each_stage(name: str, value: Any, count: int) -> tuple[Any, ...]:
    values = _as_tuple(value)
    if len(values) == 1:
        values *= count
    if len(values) != count:
        raise ConfigError(f"{name} needs one value for each of the {count} stages, or one for all, not {value}")
    return values


def _pair(name: str, value: Any) -> tuple[int, int]:
    values = _as_tuple(value)
    if len(values) == 1:
        values *= 2
    if len(values) != 2 or not all(_whole(size, 1) for size in values):
        raise ConfigError(f"{name} is one or two positive whole numbers (height, width), not {value}")
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
