"""The package's operators on a device: beside float64, and beside PyTorch's for time; sizes of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

import transxnet
from gpu_rows import Rows, Values
from transxnet import kernels

LAST = torch.channels_last
STAGES = ((48, 56, 1), (96, 28, 2), (224, 14, 4), (448, 7, 8))
"""Channels, sides and heads of Tiny's stages at 224 x 224."""


class Run:
    """Sizes and device of a run.

    Args:
        dry: Tiny sizes on a CPU.
        rows: Takes the measurements.
    """

    def __init__(self, rows: Rows, dry: bool) -> None:
        self.rows, self.dry = rows, dry
        self.device = "cpu" if dry else "cuda"
        self.policy: Any = "triton" if dry else "auto"  # of operators; the interpreter is too slow for networks
        self.batch = 1 if dry else 128
        self.size = (32, 32) if dry else (224, 224)
        self.stages = ((4, 2, 1),) if dry else STAGES

    def network(self, *, dense: bool = False, **settings: Any) -> nn.Module:
        torch.manual_seed(0)
        create: Any = transxnet.create_backbone if dense else transxnet.create_model
        if self.dry:
            settings |= {"depths": (1, 1, 1, 1), "img_size": 32}
        model: nn.Module = create("transxnet_nano" if self.dry else "transxnet_tiny", **settings).eval()
        for name, parameter in model.named_parameters():
            if "scale" in name or "position_bias" in name:  # as after training: zeros hide branches
                nn.init.normal_(parameter, std=0.3)
        return model.to(self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16)

    def ms(self, call: Callable[[], Any]) -> float:
        """Median milliseconds of a call."""
        if self.dry:
            began = time.perf_counter()
            call()
            return 1000 * (time.perf_counter() - began)
        call()
        from triton.testing import do_bench

        return float(do_bench(call, warmup=50, rep=150, return_mode="median"))


def error_of(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def first(outputs: Any) -> Tensor:
    return outputs[-1] if isinstance(outputs, list | tuple) else outputs  # type: ignore[no-any-return]


Operator = tuple[Callable[..., Tensor], list[Tensor]]


def operators(run: Run, channels: int, side: int, heads: int, batch: int) -> dict[str, Operator]:
    """Operators as a stage has them, with maps first and then parameters."""
    torch.manual_seed(0)

    def maps(count: int, size: int = side) -> Tensor:
        return torch.randn(batch, count, size, size).contiguous(memory_format=LAST)

    half, small = channels // 2, min(side, 7)
    vector = torch.rand(channels) + 0.5
    return {
        "DPE, 7x7 with the identity": (
            lambda x, weight, bias: kernels.depthwise_conv2d(x, [weight], [bias], identity=True),
            [maps(channels), torch.randn(channels, 1, 7, 7) / 7, torch.randn(channels)],
        ),
        "IDConv's convolution, 7x7": (
            kernels.dynamic_depthwise_conv2d,
            [maps(half), torch.randn(batch, half, 7, 7) / 7, torch.randn(batch, half)],
        ),
        "attention": (
            lambda q, kv, bias: kernels.attention(q, kv, bias, heads),
            [maps(half), maps(2 * half, small), torch.randn(1, heads, side * side, small * small)],
        ),
        "batch norm and GELU": (
            lambda x, weight, bias: kernels.batch_norm(
                x, weight, bias, torch.zeros_like(weight), torch.ones_like(weight), momentum=0.1, eps=1e-5, gelu="after"
            ),
            [maps(channels), vector, torch.randn(channels)],
        ),
    }


def both_ways(call: Callable[..., Tensor], tensors: list[Tensor], gradient: Tensor) -> list[Tensor]:
    leaves = [one.detach().requires_grad_() for one in tensors]
    output = call(*leaves)
    return [output, *torch.autograd.grad(output, leaves, gradient.to(output.dtype))]


def right(run: Run) -> None:
    for channels, side, heads in run.stages if run.dry else (*run.stages, (24, 9, 1)):
        for name, (call, given) in operators(run, channels, side, heads, batch=1 if run.dry else 2).items():
            with kernels.use("reference"):
                doubles = [one.double() for one in given]
                gradient = torch.randn_like(call(*doubles))
                expected = both_ways(call, doubles, gradient)
            for dtype in (torch.float32, torch.bfloat16):
                maps = 2 if name == "attention" else 1

                def compared(
                    call: Any = call, given: Any = given, gradient: Tensor = gradient, expected: Any = expected,
                    maps: int = maps, dtype: torch.dtype = dtype,
                ) -> Values:  # fmt: skip
                    moved = [one.to(run.device, dtype if index < maps else None) for index, one in enumerate(given)]
                    with kernels.use(run.policy):
                        found = both_ways(call, moved, gradient.to(run.device))
                    worst = max(error_of(one, other) for one, other in zip(found, expected, strict=True))
                    return {"worst error": worst, "right": worst < (1e-5 if dtype == torch.float32 else 2e-2)}

                run.rows.measure("right", f"{name}, {channels} x {side}², {str(dtype)[6:]}", compared, 60)


def operators_by_stage(run: Run) -> None:
    for channels, side, heads in run.stages:
        for name, (call, given) in operators(run, channels, side, heads, run.batch).items():
            moved = [one.to(run.device) for one in given]
            with torch.no_grad():
                gradient = torch.randn_like(call(*moved))

            def speed(call: Any = call, moved: Any = moved, gradient: Any = gradient) -> Values:
                values = {}
                for policy in (run.policy, "reference"):
                    with kernels.use(policy):

                        def both() -> Any:
                            with run.autocast():
                                leaves = [one.detach().requires_grad_() for one in moved]
                                output = call(*leaves)
                            return torch.autograd.grad(output, leaves, gradient.to(output.dtype))

                        values[f"{'PyTorch' if policy == 'reference' else 'ours'} ms"] = run.ms(both)
                return values

            run.rows.measure("kernels", f"{name}, {channels} x {side}², both ways", speed, 20)
