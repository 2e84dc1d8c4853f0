"""Memory traffic and kernel launches of passes on a CUDA device, counted without one.

    python benchmarks/gpu_bytes.py                                  # every case, as docs/measured/gpu_bytes.txt has it
    python benchmarks/gpu_bytes.py --cases inference --top 12       # with the operators that move most
    python benchmarks/gpu_bytes.py --cases peers                    # timm's networks of similar size

Networks and images are tensors without values on a CUDA device that need not exist. Eager passes are counted operator
by operator (gpu_eager.py), compiled ones by TorchInductor's own count for an H100 (gpu_inductor.py), and the package's
operators kernel by kernel (gpu_launches.py). Each case is counted with PyTorch's operators (the policy "reference")
and with the package's (the policy "auto"). Times are bytes at 3.0 TB/s: bounds, not measurements.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import transxnet
from transxnet import kernels

sys.path.insert(0, str(Path(__file__).parent))
from gpu_eager import Attention, Traffic
from gpu_fakes import BANDWIDTH, CudaAutocast, attention_by, convertible, put_on
from gpu_inductor import count_inference, count_training, loss_of

PEERS = ("pvt_v2_b1", "convnext_tiny", "swin_tiny_patch4_window7_224")


class Case(NamedTuple):
    """A pass to count: its task is inference, training or backbone; ``fused`` and ``compiled`` say how it is run."""

    task: str
    fused: bool
    compiled: bool

    @property
    def name(self) -> str:
        parts = [self.task, "fuse" if self.fused else "as trained", "compiled" if self.compiled else "eager"]
        return ", ".join(parts)


CASES = (
    Case("inference", False, False),
    Case("inference", True, False),
    Case("inference", False, True),
    Case("inference", True, True),
    Case("training", False, False),
    Case("training", False, True),
    Case("backbone", False, False),
    Case("backbone", True, False),
    Case("backbone", True, True),
)


class Count(NamedTuple):
    rows: dict[str, list[int]]

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.rows.values())

    @property
    def launches(self) -> int:
        return sum(launches for _, launches in self.rows.values())


def count(case: Case, policy: Any, options: argparse.Namespace, make: Any = None) -> Count:
    """Count one case by a policy of kernels."""
    training = case.task == "training"
    # Autograd computes no gradients of CUDA tensors without values: training is counted with those of a CPU.
    device = "cpu" if training else "cuda"
    policy = "triton" if training and policy == "auto" else policy
    batch, size = (2, options.backbone_size) if case.task == "backbone" else (options.batch, options.size)
    model = make() if make else network(case.task, options.model)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, convertible(), kernels.use(policy):
        model = put_on(model, device).to(memory_format=torch.channels_last)
        if case.fused:
            model = transxnet.fuse(model)
        dtype = torch.float32 if training else torch.bfloat16
        model = model if training else model.to(dtype).requires_grad_(False)
        x = torch.empty(batch, 3, *size, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        if not case.compiled:
            return Count(count_eager(model, x))
        return Count(count_training(model, x, mode) if training else count_inference(model, x, mode))


def network(task: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    if task == "training":
        return transxnet.create_model(name, drop_path_rate=0.1).train()
    create: Any = transxnet.create_backbone if task == "backbone" else transxnet.create_model
    return create(name).eval()  # type: ignore[no-any-return]


def count_eager(model: nn.Module, x: Tensor) -> dict[str, list[int]]:
    training = model.training
    traffic = Traffic(x.device.type, training=training)

    def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
        return Attention.apply(q, k, v, bias, scale, traffic)  # type: ignore[no-untyped-call, no-any-return]

    with torch.set_grad_enabled(training), traffic, attention_by(attention):
        if not training:
            model(x)
        else:
            with CudaAutocast():
                loss = loss_of(model(x))
            loss.backward()
    return traffic.rows


def report(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table, as they are counted."""
    height, width = options.size
    yield (
        f"{options.model}: inference in bfloat16 and training under bfloat16 autocast (without the optimizer) at "
        f"{height} × {width}, batch {options.batch}; the backbone in bfloat16 at {options.backbone_size[0]} × "
        f"{options.backbone_size[1]}, batch 2; channels last. transxnet {transxnet.__version__}, torch "
        f"{torch.__version__}. Counted, not measured: GB of memory traffic and launches; ms at "
        f"{BANDWIDTH / 1e12:.1f} TB/s.\n"
    )
    yield "| pass | PyTorch's operators | | | the package's | | |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    yield "| | GB | launches | ms | GB | launches | ms |"
    details = []
    for case in CASES:
        if case.task not in options.cases:
            continue
        cells = []
        for policy in options.policies:
            counted = count(case, policy, options)
            cells.append(cells_of(counted))
            details += ["", f"{case.name}, {policy}", *rows_of(counted, options.top)]
        yield f"| {case.name} | {' | '.join(cells)} |"
    for peer in PEERS if "peers" in options.cases else ():
        import timm

        for compiled in (False, True):
            case = Case("inference", False, compiled)
            counted = count(case, "reference", options, lambda peer=peer: timm.create_model(peer).eval())
            yield f"| {peer}, {'compiled' if compiled else 'eager'} | {cells_of(counted)} | | | |"
    if options.top:
        yield from details


def cells_of(counted: Count) -> str:
    return f"{counted.bytes / 1e9:.2f} | {counted.launches} | {1e3 * counted.bytes / BANDWIDTH:.2f}"


def rows_of(counted: Count, top: int) -> Iterator[str]:
    for label, (size, launches) in sorted(counted.rows.items(), key=lambda row: -row[1][0])[:top]:
        yield f"  {label:52s} {size / 1e9:7.2f} GB {size / counted.bytes:6.1%} {launches:6d}"


def size_of(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = ["inference", "training", "backbone", "peers"]
    parser.add_argument("--cases", nargs="+", choices=tasks, default=tasks)
    parser.add_argument("--policies", nargs="+", choices=("reference", "auto"), default=["reference", "auto"])
    parser.add_argument("--model", default="transxnet_tiny")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=size_of, default=(224, 224))
    parser.add_argument("--backbone-size", type=size_of, default=(800, 1280))
    parser.add_argument("--top", type=int, default=0, help="how many kinds of operators to list for each pass")
    return parser.parse_args(arguments)


def main() -> None:
    warnings.filterwarnings("ignore")
    for line in report(parsed()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
