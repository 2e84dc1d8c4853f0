"""Speed of the package's training step relative to the released arithmetic.

    python benchmarks/training_step.py                        # the classifier, 224 x 224, batch 8
    python benchmarks/training_step.py --task dense           # the backbone, 512 x 512, batch 2

Every form has its own copy of the same network, and they take turns in one process: forward, backward
and AdamW's step. The forms:

- literal: the released arithmetic operation by operation, contiguous memory, float32.
- plain: the package's network in contiguous memory.
- ours: the package's network with channels last, as in `transxnet train`.
- native: ours, with the package's kernels (`--native-kernels true`).
- autocast: ours under bfloat16 mixed precision (`--precision bf16-mixed`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import transxnet
from transxnet import kernels

sys.path.insert(0, str(Path(__file__).parent))
from literal import Literal

FORMS = ("literal", "plain", "ours", "native", "autocast")


def network(form: str, options: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    create: Any = transxnet.create_backbone if options.task == "dense" else transxnet.create_model
    model: nn.Module = create(options.model)
    if form == "literal":
        model = Literal(model).requires_grad_(True)  # type: ignore[arg-type]
    if form not in ("literal", "plain"):
        model = model.to(memory_format=torch.channels_last)
    return model.train()


def loss_of(outputs: Any, labels: Tensor) -> Tensor:
    if isinstance(outputs, list):  # a backbone's maps
        return torch.stack([output.float().square().mean() for output in outputs]).sum()
    return F.cross_entropy(outputs.float(), labels)


def step_of(form: str, options: argparse.Namespace) -> Callable[[Tensor, Tensor], None]:
    model = network(form, options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    layout = torch.channels_last if form not in ("literal", "plain") else torch.contiguous_format
    cast = torch.autocast("cpu", torch.bfloat16) if form == "autocast" else nullcontext()

    def step(images: Tensor, labels: Tensor) -> None:
        with cast, kernels.use("native" if form == "native" else "reference"):
            outputs = model(images.contiguous(memory_format=layout))
        loss_of(outputs, labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("classify", "dense"), default="classify")
    parser.add_argument("--model", default="transxnet_tiny")
    parser.add_argument("--size", type=int, help="pixels; 224 for the classifier, 512 for the backbone if not given")
    parser.add_argument("--batch", type=int, help="images; 8 for the classifier, 2 for the backbone if not given")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dense = options.task == "dense"
    size, batch = options.size or (512 if dense else 224), options.batch or (2 if dense else 8)
    images, labels = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))
    steps = {form: step_of(form, options) for form in options.forms}
    times: dict[str, list[float]] = {form: [] for form in steps}
    for turn in range(options.steps + 2):  # two to warm up
        for form, step in steps.items():
            began = time.perf_counter()
            step(images, labels)
            if turn >= 2:
                times[form].append(time.perf_counter() - began)
    print(
        f"{options.model} as a {'backbone' if dense else 'classifier'}, training step at {size} × {size}, batch "
        f"{batch}, {options.threads} threads, {options.steps} steps of each form in turns; "
        f"transxnet {transxnet.__version__}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n"
    )
    print(f"| form | median | 10th–90th percentile | times as fast as {options.forms[0]} |\n|---|---:|---:|---:|")
    base = statistics.median(times[options.forms[0]])
    for form, values in times.items():
        ordered = sorted(1000 * value for value in values)
        low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
        middle = statistics.median(values)
        print(f"| {form} | {1000 * middle:.0f} ms | {low:.0f}–{high:.0f} ms | {base / middle:.2f} |")


if __name__ == "__main__":
    main()
