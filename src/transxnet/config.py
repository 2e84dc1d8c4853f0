"""The validated configuration of a TransXNet; ``VARIANTS`` is Table I of the paper."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from transxnet.errors import ConfigError

PositionBiasResize = Literal["flattened", "geometric"]

_INTEGERS = ("depths", "channels", "heads", "reductions", "attention_groups", "kernel_sizes", "expansions")
_POOLS = ("avg", "max", "avgmax", "catavgmax", "")
_RATES = ("drop_rate", "ffn_drop_rate", "drop_path_rate")


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
        kernel_sizes: Kernel size of IDConv (K), odd.
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
        layer_scale_init: Initial weight of the scales of the residual branches.

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
    layer_scale_init: float = 1e-5

    def __post_init__(self) -> None:
        count = len(_as_tuple(self.depths))
        for name in (*_INTEGERS, "attention_shares"):
            object.__setattr__(self, name, _for_each_stage(name, getattr(self, name), count))
        object.__setattr__(self, "img_size", _pair("img_size", self.img_size))
        self._check_stages()
        self._check_network()

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
            if not _number(self.attention_shares[stage]) or not 0 < self.attention_shares[stage] < 1:
                raise ConfigError(
                    f"{where}: attention_shares must lie between 0 and 1 (both parts of the D-Mixer get "
                    f"channels), not {self.attention_shares[stage]}"
                )
            attended, heads = self.attention_channels(stage), self.heads[stage]
            if attended < 1 or attended == self.channels[stage] or attended % heads:
                raise ConfigError(
                    f"{where}: a share of {self.attention_shares[stage]} gives OSRA {attended} of "
                    f"{self.channels[stage]} channels, which {heads} heads cannot divide evenly"
                )
            if self.channels[stage] - attended < 4:
                raise ConfigError(f"{where}: IDConv needs at least 4 channels")

    def _check_network(self) -> None:
        for name, least in (("in_chans", 1), ("num_classes", 0)):
            if not _whole(getattr(self, name), least):
                raise ConfigError(f"{name} must be a whole number of at least {least}, not {getattr(self, name)!r}")
        if self.global_pool not in _POOLS:
            raise ConfigError(f"global_pool is one of {', '.join(map(repr, _POOLS))}, not {self.global_pool!r}")
        if self.num_classes and not self.global_pool:
            raise ConfigError("a classifier needs a global_pool; without one, num_classes must be 0")
        if not _number(self.layer_scale_init):
            raise ConfigError(f"layer_scale_init must be a number, not {self.layer_scale_init!r}")
        if self.position_bias_resize not in ("flattened", "geometric"):
            raise ConfigError(f'position_bias_resize is "flattened" or "geometric", not {self.position_bias_resize!r}')
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
