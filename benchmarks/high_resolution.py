"""Time and memory of the backbone from 224 to 2048 pixels, with several forms of the position bias.

    python benchmarks/high_resolution.py --sizes 224 512 800x1280 1024 2048 --train

- literal: the released arithmetic, the bias resized and attention written out in every block.
- whole: the whole bias, resized once per stage.
- ours: the package's network, which keeps large biases in factors.
- native: fused, with the package's kernels (not in training).

Each form is measured in a separate process; one that needs more memory than `--limit` is stopped by the system
and reported. Resident memory is its peak minus its value before the first pass.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import transxnet
from transxnet.layers import position_bias

sys.path.insert(0, str(Path(__file__).parent))
from literal import Literal

FORMS = ("literal", "whole", "ours", "native")


def resident_mb(kind: str) -> float:
    """Resident memory of this process: "VmRSS" now, "VmHWM" the peak since the last reset (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def network(options: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(0)
    model = transxnet.create_backbone(options.model)
    for stage in model.stage_list:
        torch.nn.init.normal_(stage.position_bias.table)
    if options.form == "literal":
        return Literal(model).requires_grad_(options.train).train(options.train)
    if options.form == "native":
        return transxnet.fuse(model, native=True)
    if options.form == "whole":
        position_bias.LARGEST_MAP = position_bias.LARGEST_SCORES = sys.maxsize
    return model.train(options.train)


def one_pass(model: torch.nn.Module, x: torch.Tensor, train: bool) -> None:
    with torch.set_grad_enabled(train):
        maps: Any = model(x)
        if train:
            sum(output.square().mean() for output in maps).backward()


def measure(options: argparse.Namespace) -> None:
    """In a process of its own: prints seconds and megabytes."""
    if options.limit:
        resource.setrlimit(resource.RLIMIT_DATA, (int(options.limit * 2**30),) * 2)
    model = network(options)
    height, width = options.size
    x = torch.randn(options.batch, 3, height, width)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the network
    before = resident_mb("VmRSS")
    times = []
    for _ in range(options.passes):
        began = time.perf_counter()
        one_pass(model, x, options.train)
        times.append(time.perf_counter() - began)
    print(f"{statistics.median(times):.3f} {resident_mb('VmHWM') - before:.0f}")


def in_own_process(form: str, size: tuple[int, int], options: argparse.Namespace) -> str:
    command = [sys.executable, __file__, "--form", form, "--sizes", f"{size[0]}x{size[1]}", "--model", options.model]
    command += ["--batch", str(options.batch), "--passes", str(options.passes), "--limit", str(options.limit)]
    command += ["--threads", str(torch.get_num_threads()), *(["--train"] if options.train else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        memory = "memory" in done.stderr or "alloc" in done.stderr or done.returncode < 0
        return "out of memory |" if memory else f"failed: {done.stderr.strip().splitlines()[-1]} |"
    seconds, megabytes = done.stdout.split()
    return f"{float(seconds):.2f} s | {megabytes} MB"


def pair(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transxnet_tiny")
    parser.add_argument("--sizes", type=pair, nargs="+", default=[pair(s) for s in ("224", "800x1280", "1024", "2048")])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit", type=float, default=0.0, help="GiB a form may take; 0 for no limit")
    parser.add_argument("--train", action="store_true", help="forward and backward passes in training mode")
    parser.add_argument("--form", choices=FORMS, help="measure this form alone, in this process")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.form:
        options.size = options.sizes[0]
        measure(options)
        return
    print(
        f"{options.model} as a backbone, batch {options.batch}, float32, {options.threads} threads, "
        f"{'training' if options.train else 'evaluation'}, median of {options.passes} passes, peak memory growth; "
        f"transxnet {transxnet.__version__}, torch {torch.__version__}\n"
    )
    forms = [form for form in FORMS if form != "native" or not options.train]
    print("| pixels |" + "".join(f" {form} | |" for form in forms) + "\n|---|" + "---:|---:|" * len(forms))
    for size in options.sizes:
        cells = [in_own_process(form, size, options) for form in forms]
        print(f"| {size[0]} × {size[1]} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
