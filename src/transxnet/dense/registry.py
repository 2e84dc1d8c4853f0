"""Dense networks by name: the ones of this package and those that others register."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

from torch import Tensor

from transxnet.checkpoints.released_dense import register_released_names
from transxnet.errors import ConfigError

if TYPE_CHECKING:
    from transxnet.dense.protocol import DenseNetwork

Task = Literal["detection", "segmentation"]
Registered = TypeVar("Registered", bound="type[DenseNetwork]")

NOUNS: dict[Task, str] = {"detection": "detector", "segmentation": "segmenter"}
"""Nouns for networks of each task, for messages."""

_NETWORKS: dict[str, type[DenseNetwork]] = {}


def register_dense_network(kind: str) -> Callable[[Registered], Registered]:
    """Register a detector or segmenter class under a name, as a decorator.

    ``create_detector`` or ``create_segmenter``, recipes, checkpoints, export and the commands then know the name.

    Args:
        kind: The name. It is stored in checkpoints and exported files.

    Raises:
        ConfigError: If the name is not an identifier or another class has it, or the class lacks
            an attribute of :class:`~transxnet.dense.protocol.DenseNetwork`.
    """

    def register(network: Registered) -> Registered:
        if not kind.isidentifier():
            raise ConfigError(f"the name of a dense network is letters, digits and underscores, not {kind!r}")
        known = _NETWORKS.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (network.__module__, network.__qualname__):
            raise ConfigError(f"{kind} is registered already, for {known.__module__}.{known.__qualname__}")
        missing = [name for name in ("task", "class_weight", "export_form") if not hasattr(network, name)]
        if missing := [*missing, *sorted(network.__abstractmethods__)]:
            raise ConfigError(
                f"{network.__qualname__} lacks {', '.join(missing)}; derive it from Detector or Segmenter, and define "
                "what these leave open"
            )
        network.kind = kind
        if network.released_names is not None:
            register_released_names(network.released_names)
        _NETWORKS[kind] = network
        return network

    return register


def network_class(kind: str, task: Task | None = None) -> type[DenseNetwork]:
    """The class that is registered under a name.

    Args:
        kind: The name.
        task: The task that it must be for; any if not given.

    Raises:
        ConfigError: If there is no such network.
    """
    names = kinds(task)
    if kind not in names:
        listed = f"there are {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else f"there is {names[0]}"
        raise ConfigError(f"there is no {NOUNS[task] if task else 'dense network'} {kind!r}; {listed}")
    return _NETWORKS[kind]


def kinds(task: Task | None = None) -> tuple[str, ...]:
    """The registered names, of one task or of all."""
    return tuple(kind for kind, network in _NETWORKS.items() if task in (None, network.task))


def kind_of(weights: Mapping[str, Tensor]) -> str:
    """The name of the network that weights under our names belong to; empty if none recognises them."""
    return next((kind for kind, network in _NETWORKS.items() if network.recognises(weights)), "")


def part_names() -> tuple[str, ...]:
    """Names of the parts that any network is exported with, in files beside the first."""
    return tuple(dict.fromkeys(part for network in _NETWORKS.values() for part in network.export_form.parts))
