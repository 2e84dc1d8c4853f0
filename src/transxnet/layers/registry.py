"""The parts of a block that a configuration chooses by name; parts from outside the package are registered alike.

A part is built from the sizes of its block and, if it has settings, from these::

    @register_token_mixer("pool")
    class Pool(nn.Module):
        def __init__(self, sizes: BlockSizes) -> None: ...

        def forward(self, x: Tensor, position_bias: Tensor | None) -> Tensor: ...

    transxnet.create_model("transxnet_nano", token_mixer="pool")
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from torch import nn

from transxnet.bounds import Bound, check_bounds, checked_settings, kinds_of, shown
from transxnet.errors import ConfigError

if TYPE_CHECKING:
    from transxnet.config import TransXNetConfig

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of the block that a part is built for.

    Attributes:
        config: The network's configuration.
        stage: Index of the block's stage, from 0.
        block: Index of the block in its stage.
        channels: Channels that the part receives: of a local operator, the D-Mixer's local half.
    """

    config: TransXNetConfig
    stage: int
    block: int
    channels: int

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.config.heads[self.stage]

    @property
    def kernel_size(self) -> int:
        """Kernel or window size, odd."""
        return self.config.kernel_sizes[self.stage]

    @property
    def reduction(self) -> int:
        """Stride of attention's keys and values."""
        return self.config.reductions[self.stage]

    @property
    def attention_groups(self) -> int:
        """Kernels that a dynamic convolution mixes."""
        return self.config.attention_groups[self.stage]

    @property
    def expansion(self) -> int:
        """Ratio of the feed-forward network's hidden channels to C."""
        return self.config.expansions[self.stage]

    @property
    def drop_rate(self) -> float:
        """Dropout inside the feed-forward network."""
        return self.config.ffn_drop_rate


@dataclass(frozen=True)
class Part:
    """A registered part.

    Attributes:
        build: Makes the module from the sizes and, if there are any, the settings.
        settings: Dataclass of its settings; None if it has none.
        check: Called as ``build``, before anything is built; raises ConfigError for sizes that cannot be.
        position_bias: Whether a token mixer uses the stage's position bias.
    """

    build: Callable[..., nn.Module]
    settings: type | None = None
    check: Callable[..., None] | None = None
    position_bias: bool = False


class PartRegistry:
    """The parts that one field of the configuration names.

    Args:
        field: The configuration's field. The settings are in the field of the same name with ``_settings`` after it.
    """

    def __init__(self, field: str) -> None:
        self.field = field
        self._parts: dict[str, Part] = {}

    def add(self, name: str, part: Part) -> None:
        """Register a part; raises ConfigError as :func:`register_token_mixer`."""
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigError(f"the name of a {self.field} has letters, digits and underscores, not {shown(name)}")
        known = self._parts.get(name)
        if known and _origin(known) != _origin(part):
            raise ConfigError(f"there is a {self.field} {name!r} already, of {'.'.join(_origin(known))}")
        if part.settings is not None:
            _check_class(part.settings)
        self._parts[name] = part

    def find(self, name: Any) -> Part:
        """A part by its name.

        Raises:
            ConfigError: If it is not registered.
        """
        if isinstance(name, str) and name in self._parts:
            return self._parts[name]
        *others, last = map(json.dumps, self._parts)
        known = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(
            f"{self.field} {shown(name)} is not registered: import the module that registers it first, or choose "
            f"{known}"
        )

    def settings(self, name: Any, value: Any) -> Any:
        """The checked settings of a part.

        Args:
            name: The part's.
            value: An instance of its settings, a mapping, or None for the defaults.

        Returns:
            An instance of its settings; None if it has none.

        Raises:
            ConfigError: If a setting is unknown, missing or out of range, or the part has none.
        """
        cls, field = self.find(name).settings, f"{self.field}_settings"
        if cls is None:
            if value is not None and value != {}:
                raise ConfigError(f"{field} must be null, because the {self.field} {name!r} has none")
            return None
        if isinstance(value, cls):
            check_bounds(value, f"{field}.")
            return value
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{field} must be a mapping of names to values, not {shown(value)}")
        values = checked_settings(cls, value or {}, f"{field}.")
        required = [one.name for one in dataclasses.fields(cls) if _is_required(one)]
        if missing := [one for one in required if one not in values]:
            raise ConfigError(f"{field} lacks {', '.join(missing)}")
        return cls(**values)

    def check(self, sizes: BlockSizes) -> None:
        """Raise ConfigError if the part that the configuration names cannot have these sizes."""
        part, arguments = self._named(sizes)
        if part.check is not None:
            part.check(*arguments)

    def build(self, sizes: BlockSizes) -> nn.Module:
        """The module that the configuration names."""
        part, arguments = self._named(sizes)
        return part.build(*arguments)

    def _named(self, sizes: BlockSizes) -> tuple[Part, tuple[Any, ...]]:
        part = self.find(getattr(sizes.config, self.field))
        settings = getattr(sizes.config, f"{self.field}_settings")
        return part, (sizes,) if part.settings is None else (sizes, settings)


TOKEN_MIXERS = PartRegistry("token_mixer")
LOCAL_OPERATORS = PartRegistry("local_operator")
FFNS = PartRegistry("ffn")
REGISTRIES = (TOKEN_MIXERS, LOCAL_OPERATORS, FFNS)


def register_token_mixer(
    name: str, *, settings: type | None = None, check: Callable[..., None] | None = None, position_bias: bool = False
) -> Callable[[Builder], Builder]:
    """Register a class or function that makes a token mixer, so that ``token_mixer=name`` chooses it.

    It is called with the :class:`BlockSizes` of each block and, if there are any, with the settings. What it
    makes maps (B, C, H, W) and the stage's position bias to (B, C, H, W).

    Args:
        name: Letters, digits and underscores.
        settings: A frozen dataclass whose numbers have bounds (``Annotated[int, Bound(1, 8)]``). Values come
            from the configuration's ``token_mixer_settings`` and are saved with the weights.
        check: Called with the same arguments before anything is built; raises ConfigError for sizes that
            the part cannot have.
        position_bias: Whether each stage is to have a position bias for it, (1, heads, N, M); otherwise
            None is passed.

    Raises:
        ConfigError: If the name is taken or not a name, or a setting has no bounds.
    """
    return _registering(TOKEN_MIXERS, name, settings, check, position_bias)


def register_local_operator(
    name: str, *, settings: type | None = None, check: Callable[..., None] | None = None
) -> Callable[[Builder], Builder]:
    """Register a class or function that makes the D-Mixer's local operator, so that ``local_operator=name`` chooses it.

    As :func:`register_token_mixer`; what it makes maps (B, C, H, W) to the same, C being ``sizes.channels``.
    """
    return _registering(LOCAL_OPERATORS, name, settings, check)


def register_ffn(
    name: str, *, settings: type | None = None, check: Callable[..., None] | None = None
) -> Callable[[Builder], Builder]:
    """Register a class or function that makes a feed-forward network, so that ``ffn=name`` chooses it.

    As :func:`register_token_mixer`; what it makes maps (B, C, H, W) to the same.
    """
    return _registering(FFNS, name, settings, check)


def _registering(
    registry: PartRegistry,
    name: str,
    settings: type | None,
    check: Callable[..., None] | None,
    position_bias: bool = False,
) -> Callable[[Builder], Builder]:
    def register(build: Builder) -> Builder:
        registry.add(name, Part(build, settings, check, position_bias))
        return build

    return register


def check_heads(sizes: BlockSizes) -> None:
    """The check of attention over all channels: raises ConfigError if the heads do not divide them."""
    if sizes.channels % sizes.heads:
        raise ConfigError(f"{sizes.heads} heads cannot divide {sizes.channels} channels evenly")


def _origin(part: Part) -> tuple[str, str]:
    """Module and name of what builds a part: a definition that is run again, as in a notebook, replaces itself."""
    build: Any = part.build
    return getattr(build, "__module__", ""), getattr(build, "__qualname__", repr(build))


def _check_class(cls: Any) -> None:
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"settings must be a frozen dataclass, not {getattr(cls, '__name__', shown(cls))}")
    for name, kind in kinds_of(cls).items():
        if not _is_bounded(kind):
            raise ConfigError(
                f"{cls.__name__}.{name} must be a number with bounds (such as Annotated[int, Bound(1, 8)]), text, a "
                "truth value, a literal, a tuple of these, or one of them or None"
            )


def _is_bounded(kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return isinstance(inner[1], Bound)
    if origin in (Union, UnionType):
        return len(inner) == 2 and type(None) in inner and all(_is_bounded(one) or one is type(None) for one in inner)
    if origin is tuple:
        return bool(inner) and all(_is_bounded(one) or one is Ellipsis for one in inner)
    return origin is Literal or kind in (bool, str)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
