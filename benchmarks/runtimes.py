"""Speed of exported files relative to the original network, taking turns in one process.

    python benchmarks/runtimes.py --batch 1 8
    python benchmarks/runtimes.py --model transxnet_nano --checkpoint runs/demo --size 32 --batch 1 32 \
        --forms literal native onnx onnx-int8 openvino --calibration digits

Ratios are to the literal form (benchmarks/literal.py).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import transxnet
from transxnet.inference.export import SUFFIXES, export
from transxnet.inference.runtimes import load_exported

sys.path.insert(0, str(Path(__file__).parent))
from inference_speed import FORMS as NETWORKS
from inference_speed import deviation, time_in_turns

EXPORTS: dict[str, tuple[Any, Any]] = {
    "onnx": ("onnx", "float32"),
    "onnx-int8": ("onnx", "int8"),
    "openvino": ("openvino", "float32"),
    "openvino-bfloat16": ("openvino", "bfloat16"),
    "openvino-int8": ("openvino", "int8"),
}


def exported(model: nn.Module, form: str, folder: Path, calibration: str | None) -> Callable[[Tensor], Any]:
    kind, precision = EXPORTS[form]
    path = folder / f"{form}{SUFFIXES[kind]}"
    export(model, path, format=kind, precision=precision, calibration=calibration if precision == "int8" else None,
           check=False)  # fmt: skip
    runtime = load_exported(path, kind)
    return lambda images: torch.from_numpy(runtime.run(images.numpy())[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transxnet_tiny")
    parser.add_argument("--checkpoint", help="weights; random ones if not given")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--forms", nargs="+", choices=[*NETWORKS, *EXPORTS], metavar="FORM",
                        default=["literal", "native", "onnx", "openvino"],
                        help="some of: " + "; ".join([*NETWORKS, *EXPORTS]))  # fmt: skip
    parser.add_argument("--calibration", help="for int8: digits, or a folder of images")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.checkpoint:
        model: Any = transxnet.load_model(options.checkpoint).eval()
    else:
        model = transxnet.create_model(options.model).eval()
    print(
        f"{options.model}, {options.size} × {options.size}, {torch.get_num_threads()} threads; transxnet "
        f"{transxnet.__version__}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}\n"
    )
    print("| batch | form | median | times as fast as the first | deviation |\n|---:|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            form: NETWORKS[form](model) if form in NETWORKS
            else exported(model, form, Path(folder), options.calibration)
            for form in options.forms
        }  # fmt: skip
        for batch in options.batch:
            x = torch.randn(batch, 3, options.size, options.size)
            with torch.inference_mode():
                expected = model(x)
                differences = {form: deviation(run(x), expected) for form, run in runs.items()}
                times = time_in_turns(runs, x, options.rounds, 3)
            middles = {form: statistics.median(values) for form, values in times.items()}
            first = middles[options.forms[0]]
            for form, middle in middles.items():
                print(f"| {batch} | {form} | {1000 * middle:.1f} ms | {first / middle:.2f} | {differences[form]:.0e} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
