"""Networks and devices without memory or values: how CUDA devices are imitated on a machine that has none."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from transxnet.kernels import reference
from transxnet.kernels.reference import FactoredBias

BANDWIDTH = 3.0e12
"""Bytes per second by which times are estimated: about what copies reach on an H100."""

_LOW = {F.conv2d, torch.conv2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm}
_HIGH = {F.group_norm, torch.group_norm, F.softmax, torch.softmax, Tensor.softmax, F.cross_entropy, Tensor.sum}
_WIDEST = {torch.cat, torch.addcmul}

H100 = types.SimpleNamespace(
    name="NVIDIA H100 80GB HBM3", major=9, minor=0, multi_processor_count=132, max_threads_per_multi_processor=2048,
    warp_size=32, regs_per_multiprocessor=65536, total_memory=80 << 30, L2_cache_size=50 << 20, gcnArchName="",
    shared_memory_per_block_optin=232448, shared_memory_per_block=49152, shared_memory_per_multiprocessor=233472,
    max_threads_per_block=1024, clock_rate=1980000, memory_clock_rate=2619000, memory_bus_width=5120,
)  # fmt: skip


def put_on(model: nn.Module, device: str) -> nn.Module:
    """Replace parameters and buffers by ones without values on a device; inside a FakeTensorMode."""
    for module in model.modules():
        _convert(module, lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device))
    return model


def _convert(module: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
    for name, parameter in list(module._parameters.items()):
        if parameter is not None:
            module._parameters[name] = nn.Parameter(function(parameter.detach()), parameter.requires_grad)
    for name, buffer in list(module._buffers.items()):
        if buffer is not None:
            module._buffers[name] = function(buffer)


@contextmanager
def convertible() -> Iterator[None]:
    """Let ``module.to()`` convert parameters without values, which PyTorch refuses."""

    def apply(self: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        for child in self.children() if recurse else ():
            child._apply(function)
        _convert(self, function)
        return self

    with mock.patch.object(nn.Module, "_apply", apply):
        yield


class CudaAutocast(TorchFunctionMode):
    """bfloat16 autocast of tensors on a CPU by the lists of CUDA's: autograd computes no gradients of tensors without
    values on CUDA devices.
    """

    def __enter__(self) -> Any:
        self._autocast = torch.autocast("cpu", torch.bfloat16)
        self._autocast.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._autocast.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_autocast_enabled("cpu") or func not in _LOW | _HIGH | _WIDEST:
            return func(*args, **kwargs)
        dtype = torch.bfloat16 if func in _LOW else torch.float32
        if func in _WIDEST and all(one.dtype != torch.float32 for one in _tensors((*args, *kwargs.values()))):
            dtype = torch.bfloat16
        return func(*_cast(args, dtype), **{name: _cast(value, dtype) for name, value in kwargs.items()})


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and value.dtype != dtype else value
    return type(value)(_cast(one, dtype) for one in value) if type(value) in (list, tuple) else value


def is_fused(q: Tensor) -> bool:
    """Whether PyTorch has an attention kernel with a bias for heads of this width; others are computed in float32."""
    return q.shape[-1] % (8 if q.element_size() == 2 else 4) == 0


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """Attention as PyTorch computes it on CUDA devices where no kernel fits: in float32."""
    factor = (q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    with torch.autocast(q.device.type, enabled=False):
        scores = (q.float() * factor) @ (k.float() * factor).transpose(-2, -1)
        scores = scores if bias is None else scores + bias.float()
        return (scores.softmax(-1) @ v.float()).to(q.dtype)


@contextmanager
def attention_by(kernel: Callable[..., Tensor]) -> Iterator[None]:
    """PyTorch's attention as on a CUDA device, of tensors on any: ``kernel`` where it has one, else the plain form."""

    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        *_: Any,
        scale: float | None = None,
        **others: Any,
    ) -> Tensor:
        return (kernel if is_fused(q) else attend_plainly)(q, k, v, attn_mask, scale)

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Any = None, scale: float | None = None) -> Tensor:
        bias = bias.multiplied() if isinstance(bias, FactoredBias) else bias
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        return attention(q, k, v, None if bias is None else bias.to(q.dtype), scale=scale)

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attention))
        if torch.is_grad_enabled():  # on a CPU it has another form for training
            patches.enter_context(mock.patch.object(reference, "attend", attend))
        yield


class _Worker:
    get_device_properties = staticmethod(lambda *_: H100)
    current_device = staticmethod(lambda: 0)
    set_device = staticmethod(lambda _: None)


@contextmanager
def described_devices() -> Iterator[None]:
    """Let PyTorch say that an H100 is there."""
    constants = {
        "get_device_properties": H100, "get_device_capability": (9, 0), "current_device": 0, "device_count": 1,
        "is_available": True, "is_initialized": True, "_lazy_init": None,
    }  # fmt: skip
    with ExitStack() as patches:
        for name, value in constants.items():
            patches.enter_context(mock.patch.object(torch.cuda, name, _returning(value)))
        yield


@contextmanager
def described_gpu() -> Iterator[None]:
    """Let TorchInductor schedule kernels as for an H100, which need not be there."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import scheduler
    from torch._inductor import utils as inductor_utils
    from torch.utils import _triton

    constants: dict[Any, Any] = {
        (inductor_utils, "get_gpu_dram_gbps"): BANDWIDTH / 1e9, (inductor_utils, "get_max_numwarps"): 32,
        (CudaInterface, "get_device_properties"): H100, (CudaInterface, "is_available"): True,
        (CudaInterface, "get_compute_capability"): "90", (CudaInterface, "current_device"): 0,
    }  # fmt: skip
    for module in (_triton, scheduler):
        constants |= {(module, name): True for name in ("has_triton", "has_triton_package") if hasattr(module, name)}
    with described_devices(), ExitStack() as patches:
        for (owner, name), value in constants.items():
            function: Any = _returning(value)
            patches.enter_context(
                mock.patch.object(owner, name, staticmethod(function) if isinstance(owner, type) else function)
            )
        patches.enter_context(mock.patch.object(CudaInterface, "Worker", _Worker))
        yield


def _returning(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value
