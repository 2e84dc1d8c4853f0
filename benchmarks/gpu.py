"""Correctness and speed on a CUDA device, in under eight minutes.

    PYTHONPATH=src python benchmarks/gpu.py --out DIR
    PYTHONPATH=src python benchmarks/gpu.py --out DIR --dry    # on a CPU, operators by Triton's interpreter

First the device's ceilings; Tiny's forms beside timm's networks of similar size, eager and as CUDA graphs; training
steps; a backbone at 800 x 1280; host synchronisations; the package's operators against float64, and by stage beside
PyTorch's; then compiled networks. A row that comes too late is left out, which the output says. DIR gets gpu.json,
gpu.md and gpu.png.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

DRY = "--dry" in sys.argv
if DRY:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import timm
import torch

import transxnet

sys.path.insert(0, str(Path(__file__).parent))
from gpu_networks import compiled, inference, training, waits
from gpu_operators import Run, operators_by_stage, right
from gpu_rows import Rows, Values

SECTIONS = ("inference", "training", "backbone", "waits", "right", "kernels", "compiled")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--seconds", type=float, default=460)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    options = parser.parse_args()
    if not (options.dry or torch.cuda.is_available()):
        parser.error("there is no CUDA device here; --dry runs the same lines on a CPU")
    warnings.filterwarnings("ignore")
    run = Run(Rows(options.out, options.seconds), options.dry)
    run.rows.measure("machine", "this", lambda: machine(run), 30)
    parts = {
        "inference": lambda run: inference(run, dense=False), "training": training,
        "backbone": lambda run: inference(run, dense=True), "waits": waits, "right": right,
        "kernels": operators_by_stage, "compiled": compiled,
    }  # fmt: skip
    for name in options.only:
        parts[name](run)
    run.rows.finish()


if __name__ == "__main__":
    main()
