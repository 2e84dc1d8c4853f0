"""Correctness and speed on a CUDA device, in under eight minutes.

    PYTHONPATH=src python benchmarks/gpu.py --out DIR
    PYTHONPATH=src python benchmarks/gpu.py --out DIR --dry    # on a CPU, operators by Triton's interpreter

First the device's ceilings, then the package's operators against float64, then Tiny's forms beside timm's networks of
similar size, training, a backbone at 800 x 1280, operators by stage beside PyTorch's, and host synchronisations. A row
that comes too late is left out, which the output says. DIR gets gpu.json, gpu.md and gpu.png.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import warnings
from collections.abc import Callable
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
from gpu_operators import Run, error_of, first, operators_by_stage, right
from gpu_rows import Rows, Values
from literal import Literal

LAST = torch.channels_last
PEERS = ("pvt_v2_b1", "swin_tiny_patch4_window7_224", "convnext_tiny")
SECTIONS = ("right", "inference", "training", "backbone", "kernels", "waits")


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


def inference(run: Run, *, dense: bool) -> None:
    section = "backbone" if dense else "inference"
    batch, size = (run.batch, run.size) if not dense or run.dry else (2, (800, 1280))
    model = run.network(dense=dense)
    x = torch.randn(batch, 3, *size, device=run.device)
    with torch.inference_mode(), kernels.use("reference"):
        expected = first(model(x[:2]))
    half = x.to(torch.bfloat16)

    def speed(
        make: Callable[[], Callable[[Tensor], Any]], images: Tensor, compare: bool = True, policy: Any = "auto"
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

    def peer(name: str, compiled: bool) -> Any:
        settings = {"features_only": True} if dense else {}
        model = timm.create_model(name, **settings).eval().to(run.device, torch.bfloat16).to(memory_format=LAST)
        return torch.compile(model, dynamic=False) if compiled else model

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
        for compiled in (False, True):
            tag = f"{name}, {'compiled' if compiled else 'eager'}"
            measure(section, tag, lambda name=name, c=compiled: speed(lambda: peer(name, c), last, False), 60)


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

    forms: list[tuple[Any, bool, int]] = [
        ("auto", False, 40),
        ("reference", False, 40),
        ("auto", True, 160),
        ("reference", True, 160),
    ]
    for policy, compiled, limit in forms[:2] if run.dry else forms:
        name = f"{'PyTorch' if policy == 'reference' else 'our'} operators, {'compiled' if compiled else 'eager'}"
        run.rows.measure("training", name, lambda p=policy, c=compiled: speed(p, c), limit)


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
        with torch.inference_mode(), kernels.use("auto"):
            model(x)

    run.rows.measure("waits", "inference, fuse", lambda: counted(infer))
    run.rows.measure("waits", "training step", lambda: counted(step_of(run, "auto", compiled=False)), 40)


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
