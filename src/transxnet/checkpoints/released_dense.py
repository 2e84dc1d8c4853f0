"""Names of the released detectors and segmenters, as a pure map to torchvision's and ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from transxnet.checkpoints.released import MARKER, from_released

BODY = "backbone.body."
"""Prefix of the backbone's entries in our detectors and segmenters."""

_PYRAMID = (
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
)


@dataclass(frozen=True)
class ReleasedNames:
    """How a released network's entries are renamed.

    Attributes:
        marker: An entry that only this network's files have.
        rules: Regular expressions for the start of a name and their replacements; the first that matches
            counts, before those of the backbone and the pyramid.
        arrange: Rearranges a tensor, given our name of it; leaves it as it is by default.
    """

    marker: str
    rules: Sequence[tuple[str, str]]
    arrange: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor


_REGISTERED: dict[str, ReleasedNames] = {}


def register_released_names(names: ReleasedNames) -> None:
    """Read files of a further released network."""
    _REGISTERED[names.marker] = names


def is_released_dense(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the names are a released detector's or segmenter's."""
    return f"backbone.{MARKER}" in state_dict


def from_released_dense(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of a released detector's or segmenter's; unknown entries keep their names."""
    prefix = "backbone."
    body = from_released({n.removeprefix(prefix): t for n, t in state_dict.items() if n.startswith(prefix)})
    ours = {BODY + name: tensor for name, tensor in body.items()}
    known = next((names for marker, names in _REGISTERED.items() if marker in state_dict), ReleasedNames("", ()))
    rules = [(re.compile(pattern), replacement) for pattern, replacement in (*known.rules, *_PYRAMID)]
    for name, tensor in state_dict.items():
        if not name.startswith(prefix):
            new = _rename(name, rules)
            ours[new] = known.arrange(new, tensor)
    return ours


def _rename(name: str, rules: Sequence[tuple[re.Pattern[str], str]]) -> str:
    for pattern, replacement in rules:
        if pattern.match(name):
            return pattern.sub(replacement, name)
    return name
