"""Memory traffic and launches of eager passes on a CUDA device, counted from tensors without values.

Every operator reads its inputs and writes its outputs once, and what PyTorch's kernels are known to do besides:

- a convolution by cuDNN adds its bias in a second kernel, and copies a map that is not in its layout;
- group normalisation copies channels-last maps, returns contiguous ones, and reads a map twice;
- batch normalisation reads a map twice in training;
- attention with a bias has kernels for heads of a multiple of 8 channels; others are computed in float32.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gpu_launches import Launch, run, size

LAST = torch.channels_last
_FREE = {"detach", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "lift_fresh",
         "_unsafe_view"}  # fmt: skip
_NORMS = ("native_batch_norm", "cudnn_batch_norm", "_batch_norm_with_update", "_native_batch_norm_legit",
          "_native_batch_norm_legit_no_training")  # fmt: skip
_LABELS = {"add": "add", "gelu": "gelu", "gelu_backward": "gelu, gradient", "_to_copy": "cast",
           "addcmul": "layer scale", "cat": "cat", "clone": "copy", "copy_": "copy"}  # fmt: skip


class Traffic(TorchDispatchMode):
    """Counts what is computed inside it.

    Args:
        device: The device whose operators count.
        training: Whether batch normalisation computes statistics.

    Attributes:
        rows: Bytes and launches by kind of operator.
    """

    def __init__(self, device: str, *, training: bool) -> None:
        super().__init__()
        self.device = device
        self.training = training
        self.rows: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    @property
    def bytes(self) -> int:
        return sum(moved for moved, _ in self.rows.values())

    @property
    def launches(self) -> int:
        return sum(launches for _, launches in self.rows.values())

    def add(self, label: str, moved: int, launches: int = 1) -> None:
        self.rows[label][0] += moved
        self.rows[label][1] += launches

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, Tensor)]
        name = func._schema.name.partition("::")[2]
        aliased = any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)
        if aliased or func.namespace == "prim" or name in _FREE or all(x.device.type != self.device for x in given):
            return out
        if func.namespace == "transxnet":
            for label, (moved, launches) in rows_of(name, args).items():
                self.add(label, moved, launches)
            return out
        if name == "_to_copy" and args[0].dtype == out.dtype and args[0].device != out.device:
            return out
        return getattr(self, f"_count_{name}", self._count)(name, args, kwargs, out)

    def _count(self, name: str, args: Any, kwargs: Any, out: Any) -> Any:
        if name in _NORMS:
            passes, launches = (2, 3) if self.training else (1, 1)
            self.add("batch norm", passes * size(args[0]) + size(out[0]), launches)
        elif name in ("native_batch_norm_backward", "cudnn_batch_norm_backward", "batch_norm_backward"):
            maps = [x for x in tree_leaves(args) if isinstance(x, Tensor) and x.ndim == 4][:2]
            self.add("batch norm, gradient", 2 * size(maps) + size(out[0]), 2)
        else:
            name = name.removesuffix("_") if name != "copy_" else name
            self.add(_LABELS.get(name, name), size(args, kwargs, out))
        return out

    def _count_copy_(self, name: str, args: Any, kwargs: Any, out: Any) -> Any:
        self.add("copy", size(args[:2]))
        return out

    def _count_convolution(self, name: str, args: Any, kwargs: Any, out: Tensor) -> Tensor:
        x, weight, bias, groups = *args[:3], args[8]
        last = _is_last(x) or _is_last(weight)
        own = groups > 1 and not last and x.shape[1] == groups and (weight.shape[-1] > 5 or x.dtype == torch.float32)
        self.add(_convolution(weight, groups), size(x, weight, out))
        layout = self._in_layout(last, x)
        if bias is not None and not own:
            self.add("bias of a convolution", 2 * size(out))
        return torch.empty_like(out, memory_format=layout)

    def _count_convolution_backward(self, name: str, args: Any, kwargs: Any, out: Any) -> Any:
        gradient, x, weight, groups, (of_input, of_weight, of_bias) = *args[:3], args[9], args[10]
        label, layout = _convolution(weight, groups), self._in_layout(_is_last(x) or _is_last(weight), gradient, x)
        for wanted in (of_input, of_weight):
            if wanted:
                self.add(f"{label}, gradient", size(gradient, x, weight))
        if of_bias:
            self.add("bias of a convolution, gradient", size(gradient))
        return (torch.empty_like(out[0], memory_format=layout) if of_input else out[0], *out[1:])

    def _in_layout(self, last: bool, *maps: Tensor) -> torch.memory_format:
        layout = LAST if last else torch.contiguous_format
        for x in maps:
            if not x.is_contiguous(memory_format=layout):
                self.add("copy to a convolution's layout", 2 * size(x))
        return layout

    def _count_native_group_norm(self, name: str, args: Any, kwargs: Any, out: Any) -> Any:
        if not args[0].is_contiguous():
            self.add("group norm: copy to contiguous", 2 * size(args[0]))
        self.add("group norm", 2 * size(args[0]) + size(out[0]), 3)
        return out[0].contiguous(), *out[1:]

    def _count_native_group_norm_backward(self, name: str, args: Any, kwargs: Any, out: Any) -> Any:
        for x in args[:2]:
            if not x.is_contiguous():
                self.add("group norm: copy to contiguous", 2 * size(x))
        self.add("group norm, gradient", 2 * size(args[:2]) + size(out[0]), 4)
        return None if out[0] is None else out[0].contiguous(), *out[1:]


_known: dict[Any, dict[str, list[int]]] = {}


def rows_of(name: str, args: Any) -> dict[str, list[int]]:
    """The kernels of a call of one of the package's operators and their traffic, and PyTorch's operators in it."""
    key = (name, str(tree_map(lambda x: (x.shape, x.stride(), x.dtype) if isinstance(x, Tensor) else x, args)))
    if key not in _known:
        traffic = Traffic("cuda", training=True)

        def record(launch: Launch) -> None:
            traffic.add(f"our {launch.name}", launch.bytes)

        with traffic:
            run(name, args, record)
        _known[key] = {
            label if label.startswith("our ") else f"our {name}: {label}": row for label, row in traffic.rows.items()
        }
    return _known[key]


def _convolution(weight: Tensor, groups: int) -> str:
    size = weight.shape[-1]
    return f"convolution {size}x{size}{', depthwise' if groups > 1 else ''}"


def _is_last(x: Tensor) -> bool:
    """Whether cuDNN would choose channels last for a tensor, by its strides."""
    smallest = 0
    if x.ndim != 4 or x.stride(1) == 0:
        return False
    for axis in (1, 3, 2, 0):
        if x.shape[axis] == 0 or x.stride(axis) < smallest or (axis == 0 and smallest == x.stride(1)):
            return False
        smallest = x.stride(axis) * max(x.shape[axis], 1) if x.shape[axis] > 1 else x.stride(axis)
    return True


class Attention(torch.autograd.Function):
    """PyTorch's attention kernel: it pads biases, and writes a bias's gradient for every image.

    Without a bias, as timm's networks call it, it is counted forward only.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: Any, traffic: Traffic) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        ctx.traffic = traffic
        if bias is not None and bias.shape[-1] % 16:
            traffic.add("attention: padded bias", 2 * size(bias))
        traffic.add("attention", size(q, k, v, q) + (0 if bias is None else size(bias)))
        return q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q, k, v, bias = ctx.saved_tensors
        ctx.traffic.add("attention, gradient", 4 * size(q) + 2 * size(q, k, v) + size(gradient))
        every = q.shape[0] * q.shape[1] * q.shape[2] * (-(-bias.shape[-1] // 16) * 16) * q.element_size()
        ctx.traffic.add("attention: gradient of every image's bias", 2 * every, 2)
        return *(torch.empty_like(x) for x in (q, k, v, bias)), None, None
