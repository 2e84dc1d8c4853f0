"""Layers one after another, of which some neighbours are one operator."""

from __future__ import annotations

from timm.models import register_notrace_module
from torch import Tensor, nn

from transxnet.kernels import GELUOrder, gelu
from transxnet.layers.norm import BatchNorm2d

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@register_notrace_module
class GELU(nn.GELU):
    """GELU, not approximated."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """Shapes: any to the same."""
        return gelu(input)


class Sequential(nn.Sequential):
    """Layers in order; GELU beside a batch normalisation is one operator with it."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        """Shapes: those of the layers."""
        return in_order(input, *self)


def in_order(x: Tensor, *layers: nn.Module) -> Tensor:
    """Apply layers to ``x``; as :class:`Sequential`."""
    index = 0
    while index < len(layers):
        pair = layers[index : index + 2]
        y = _pair(x, *pair) if len(pair) == 2 and isinstance(x, Tensor) else None
        x = layers[index](x) if y is None else y
        index += 1 if y is None else 2
    return x


def _pair(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor | None:
    """GELU and batch normalisation in training, in any order, as one operator; None if these are something else."""
    order: GELUOrder
    if isinstance(second, BatchNorm2d):
        norm, act, order = second, first, "before"
    elif isinstance(first, BatchNorm2d):
        norm, act, order = first, second, "after"
    else:
        return None
    plain = norm.learns(x) and is_plain(norm, BatchNorm2d) and isinstance(act, GELU) and is_plain(act, GELU)
    return norm.learn(x, order) if plain else None


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call of a module does what ``kind`` does, and nobody watches it by hooks."""
    own = vars(module)
    return type(module).forward is kind.forward and "forward" not in own and not any(own[name] for name in _HOOKS)
