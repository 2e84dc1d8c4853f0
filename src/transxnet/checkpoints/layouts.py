"""Finding a network's weights in what people save: dictionaries in dictionaries, and prefixes that wrappers add."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from transxnet.bounds import shown
from transxnet.checkpoints.released import MARKER
from transxnet.checkpoints.released_dense import BODY
from transxnet.errors import CheckpointError

# Averaged weights first: those are the ones that authors evaluate. Then the usual names, most usual first.
LAYOUTS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "averaged_model", "swa_model",
    "state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "params", "backbone",
)  # fmt: skip
_AVERAGES = LAYOUTS.index("state_dict")  # number of names of averaged weights
_WRAPPERS = ("module", "_orig_mod")  # of DistributedDataParallel, AveragedModel and torch.compile
_INSIDE = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

_STEM = "stem.conv.weight"
# An entry of a detector or segmenter with the prefix of its backbone, and one of a classifier or backbone alone.
_DENSE = ((BODY + _STEM, "backbone."), (f"backbone.{MARKER}", "backbone."))
_ALONE = (_STEM, MARKER)
_BOOKKEEPING = ("n_averaged",)
_MAX_DEPTH = 5
_MAX_VISITED = 10_000
_MAX_NAME = 300


@dataclass(frozen=True)
class _Found:
    """A network in a file.

    Attributes:
        entries: The dictionary with its weights.
        keys: Where that is in the file.
        prefix: Of its entries' names.
    """

    entries: dict[str, Any]
    keys: tuple[str, ...]
    prefix: str

    @property
    def rank(self) -> tuple[bool, int, int]:
        """Smaller for averaged weights, then for usual names, then for few dictionaries around it."""
        parts = [part for part in (*self.keys, *self.prefix.split(".")) if part and part not in _WRAPPERS]
        ranks = [LAYOUTS.index(part) if part in LAYOUTS else len(LAYOUTS) for part in parts]
        averaged = any(rank < _AVERAGES for rank in ranks)
        return (not averaged, max((rank for rank in ranks if rank >= _AVERAGES), default=0), len(self.keys))

    @property
    def name(self) -> str:
        return ".".join((*self.keys, self.prefix)).rstrip(".") or "the top level"


def find_weights(content: Any, source: str) -> tuple[dict[str, Tensor], list[str]]:
    """Find the weights of a network in the content of a file.

    Args:
        content: A state dict, or dictionaries around one, with whatever else was saved.
        source: Source of the content, for messages.

    Returns:
        The weights without the prefixes of wrappers, and the names of the entries beside them that were left out.

    Raises:
        CheckpointError: If there are no weights, values of another type among them, or several networks of
            which none is more plainly meant.
    """
    found = sorted(_networks(content), key=lambda one: one.rank)
    if not found:
        return _unwrapped(_tensors(_usual(content), content, source)), []
    best = [one for one in found if one.rank == found[0].rank]
    if len(best) > 1:
        names = ", ".join(one.name for one in best[:4])
        raise CheckpointError(f"{source} holds several networks ({names}): save the one that is wanted by itself")
    return _selected(found[0], [one.prefix for one in found if one.keys == found[0].keys], source)


def _networks(content: Any, keys: tuple[str, ...] = (), visited: list[int] | None = None) -> Iterator[_Found]:
    """All networks of ours in a file's content."""
    visited = [0] if visited is None else visited
    visited[0] += 1
    if not isinstance(content, Mapping) or len(keys) > _MAX_DEPTH or visited[0] > _MAX_VISITED:
        return
    entries = {_INSIDE.sub("", key): value for key, value in content.items() if isinstance(key, str)}
    for prefix in dict.fromkeys(_prefixes(entries)):
        yield _Found(entries, keys, prefix)
    for key, value in entries.items():
        if isinstance(value, Mapping):
            yield from _networks(value, (*keys, key), visited)


def _prefixes(entries: Mapping[str, Any]) -> Iterator[str]:
    """The prefixes below which a dictionary has the entries of a network."""
    for name, value in entries.items():
        if not isinstance(value, Tensor):
            continue
        for ending, part in _DENSE:
            prefix = name.removesuffix(ending)
            if _ends(name, ending) and any(
                one.startswith(prefix) and not one.startswith((prefix + part, *(prefix + o + "." for o in _WRAPPERS)))
                for one in entries
            ):
                yield prefix
                break
        else:
            yield from (name.removesuffix(ending) for ending in _ALONE if _ends(name, ending))


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _selected(found: _Found, prefixes: list[str], source: str) -> tuple[dict[str, Tensor], list[str]]:
    """The entries of one network, without its prefix, and the names of the others in its dictionary."""
    others = tuple(prefix for prefix in prefixes if prefix and not found.prefix.startswith(prefix))
    weights, left = {}, []
    for name, value in found.entries.items():
        beside = not isinstance(value, Tensor) and "." not in name  # an epoch, a score, an optimizer's state
        if name.startswith(found.prefix) and not name.startswith(others) and not beside and name not in _BOOKKEEPING:
            weights[name.removeprefix(found.prefix)] = value
        elif name not in _BOOKKEEPING and not beside:
            left.append(name)
    return _tensors(weights, found.entries, source), left


def _usual(content: Any) -> Any:
    """The dictionary under a usual name, in a file without a network of ours."""
    if isinstance(content, Mapping):
        for name in LAYOUTS:
            if isinstance(content.get(name), Mapping):
                return content[name]
    return content


def _tensors(weights: Any, content: Any, source: str) -> dict[str, Tensor]:
    """The weights as tensors by name; raises CheckpointError if they are anything else."""
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(f"{source} has no state dict, but {_summary(content)}")
    named = {str(name): value for name, value in weights.items()}
    if unusable := [name for name in named if len(name) > _MAX_NAME or not name.isprintable()]:
        raise CheckpointError(f"{source} has no state dict: {shown(unusable[0])} is not a tensor's name")
    if others := [name for name, value in named.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{source} has no state dict: {', '.join(others[:3])} are not tensors")
    return named


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("module.", "_orig_mod.", "model.") * 2:
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _summary(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dictionary of {', '.join(str(name)[:_MAX_NAME] for name in list(content)[:5]) or 'nothing'}"
    return f"a {type(content).__name__}"
