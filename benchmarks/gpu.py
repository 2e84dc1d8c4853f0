"""Correctness and speed on a CUDA device, in under eight minutes.

    PYTHONPATH=src python benchmarks/gpu.py --out DIR
    PYTHONPATH=src python benchmarks/gpu.py --out DIR --dry    # the same lines on a CPU, by Triton's interpreter

First the device's ceilings, then the package's operators against float64, then Tiny's forms beside timm's networks of
similar size, training, a backbone at 800 x 1280, operators by stage beside PyTorch's, and host synchronisations. A row
that comes too late is left out, which the output says. DIR gets gpu.json, gpu.md and gpu.png.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

DRY = "--dry" in sys.argv
if DRY:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import transxnet
from transxnet import kernels

sys.path.insert(0, str(Path(__file__).parent))
from gpu_rows import Rows, Values
from literal import Literal

LAST = torch.channels_last
PEERS = ("pvt_v2_b1", "swin_tiny_patch4_window7_224", "convnext_tiny")
SECTIONS = ("right", "inference", "training", "backbone", "kernels", "waits")
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
        self.policy: Any = "triton" if dry else "auto"
        self.batch = 1 if dry else 128
        self.size = (32, 32) if dry else (224, 224)
        self.stages = ((4, 3, 1),) if dry else STAGES

    def network(self, *, dense: bool = False, **settings: Any) -> nn.Module:
        torch.manual_seed(0)
        create: Any = transxnet.create_backbone if dense else transxnet.create_model
        if self.dry:
            settings |= {"depths": (1, 1, 1, 1)}
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


def machine(run: Run) -> Values:
    values: Values = {"torch": torch.__version__, "timm": timm.__version__, "transxnet": transxnet.__version__}
    if run.dry:
        return values | {"device": "CPU, dry run: the times mean nothing"}
    import triton

    torch.backends.cudnn.benchmark = True
    a = torch.randn(1 << 29, device="cuda", dtype=torch.bfloat16)
    b, x = torch.empty_like(a), torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return values | {
        "triton": triton.__version__, "device": torch.cuda.get_device_name(), "cudnn": torch.backends.cudnn.version(),
        "copy TB/s": 2e-9 * a.nbytes / run.ms(lambda: b.copy_(a)),
        "bf16 TFLOP/s": 2e-9 * 8192**3 / run.ms(lambda: x @ x),
    }  # fmt: skip


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


def inference(run: Run, *, dense: bool) -> None:
    section = "backbone" if dense else "inference"
    batch, size = (run.batch, run.size) if not dense or run.dry else (2, (800, 1280))
    model = run.network(dense=dense)
    x = torch.randn(batch, 3, *size, device=run.device)
    with torch.inference_mode(), kernels.use("reference"):
        expected = first(model(x[:2]))
    half = x.to(torch.bfloat16)

    def speed(
        make: Callable[[], Callable[[Tensor], Any]], images: Tensor, compare: bool = True, policy: Any = run.policy
    ) -> Values:
        if not run.dry:
            torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode(), kernels.use(policy):
            network = make()
            outputs = first(network(images))
            values: Values = {"deviation": error_of(outputs[:2], expected)} if compare else {}
            ms = run.ms(lambda: network(images))
        memory = {} if run.dry else {"GiB": torch.cuda.max_memory_allocated() / 2**30}
        return values | {"ms": ms, "images/s": 1000 * batch / ms} | memory

    def fused() -> nn.Module:
        return transxnet.fuse(model).to(torch.bfloat16).to(memory_format=LAST)

    def peer(name: str) -> nn.Module:
        settings = {"features_only": True} if dense else {}
        return timm.create_model(name, **settings).eval().to(run.device, torch.bfloat16).to(memory_format=LAST)

    last = half.contiguous(memory_format=LAST)
    measure = run.rows.measure

    def literal() -> nn.Module:
        return Literal(copy.deepcopy(model)).to(torch.bfloat16)  # type: ignore[arg-type]

    measure(section, "literal, eager", lambda: speed(literal, half, policy="reference"), 40)
    measure(section, "fuse, eager", lambda: speed(fused, last), 40)
    if run.dry:
        return
    measure(section, "fuse, CUDA graph", lambda: speed(lambda: graphed(fused(), last), last), 40)
    measure(section, "fuse, compiled", lambda: speed(lambda: torch.compile(fused(), dynamic=False), last), 120)
    for name in PEERS[2:] if dense else PEERS:
        measure(section, f"{name}, eager", lambda name=name: speed(lambda: peer(name), last, False))
        measure(
            section,
            f"{name}, compiled",
            lambda name=name: speed(lambda: torch.compile(peer(name), dynamic=False), last, False),
            60,
        )


def graphed(network: nn.Module, images: Tensor) -> Callable[[Tensor], Any]:
    """A network's pass recorded as a CUDA graph, which reads and writes the same memory each time."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            network(images)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = network(images)

    def replay(_: Tensor) -> Any:
        graph.replay()
        return outputs

    return replay


def step_of(run: Run, policy: Any, compiled: bool) -> Callable[[], None]:
    """A training step under bfloat16 autocast."""
    model: Any = run.network(drop_path_rate=0.1).train().to(memory_format=LAST)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    images = torch.randn(run.batch, 3, *run.size, device=run.device).contiguous(memory_format=LAST)
    labels = torch.randint(1000, (run.batch,), device=run.device)
    called = torch.compile(model, dynamic=False) if compiled and not run.dry else model

    def step() -> None:
        with kernels.use(policy):
            with run.autocast():
                loss = F.cross_entropy(called(images).float(), labels)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def training(run: Run) -> None:
    def speed(policy: Any, compiled: bool) -> Values:
        step = step_of(run, policy, compiled)
        if not run.dry:
            torch.cuda.reset_peak_memory_stats()
        ms = run.ms(step)
        memory = {} if run.dry else {"GiB": torch.cuda.max_memory_allocated() / 2**30}
        return {"ms": ms, "images/s": 1000 * run.batch / ms} | memory

    forms = [(run.policy, False, 40), ("reference", False, 40), (run.policy, True, 160), ("reference", True, 160)]
    for policy, compiled, limit in forms[:1] if run.dry else forms:
        name = f"{'PyTorch' if policy == 'reference' else 'our'} operators, {'compiled' if compiled else 'eager'}"
        run.rows.measure("training", name, lambda p=policy, c=compiled: speed(p, c), limit)


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


def waits(run: Run) -> None:
    """Host synchronisations, as PyTorch warns of them."""

    def counted(call: Callable[[], Any]) -> Values:
        call()
        if run.dry:
            return {"synchronisations": "not counted on a CPU"}
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return {"synchronisations": sum("synchroniz" in str(one.message).lower() for one in caught)}

    model = transxnet.fuse(run.network()).to(memory_format=LAST)
    x = torch.randn(2, 3, *run.size, device=run.device).contiguous(memory_format=LAST)

    def infer() -> None:
        with torch.inference_mode(), kernels.use(run.policy):
            model(x)

    run.rows.measure("waits", "inference, fuse", lambda: counted(infer))
    run.rows.measure("waits", "training step", lambda: counted(step_of(run, run.policy, compiled=False)), 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--seconds", type=float, default=460)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    run = Run(Rows(options.out, options.seconds), options.dry)
    run.rows.measure("machine", "this", lambda: machine(run), 30)
    parts = {
        "right": right, "inference": lambda run: inference(run, dense=False), "training": training,
        "backbone": lambda run: inference(run, dense=True), "kernels": operators_by_stage, "waits": waits,
    }  # fmt: skip
    for name in options.only:
        parts[name](run)
    run.rows.finish()


if __name__ == "__main__":
    main()
