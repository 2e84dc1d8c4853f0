"""Whether a module may be computed together with others instead of being called."""

from __future__ import annotations

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a call of a module does what ``kind`` does, and nobody watches it by hooks."""
    own = vars(module)
    return type(module).forward is kind.forward and "forward" not in own and not any(own[name] for name in _HOOKS)
