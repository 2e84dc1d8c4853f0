"""Speed of the network relative to its literal form, and to other networks of similar size.

    python benchmarks/inference_speed.py --task classify --batch 1 8
    python benchmarks/inference_speed.py --task dense --size 800x1280 --forms literal eager fused --peers

All forms run in one process and take turns, pass by pass; the figures are medians. Ratios are to the literal
form (benchmarks/literal.py), which computes the released arithmetic operation by operation.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import transxnet

sys.path.insert(0, str(Path(__file__).parent))
from literal import Literal

Run = Callable[[Tensor], Any]
PEERS = ("pvt_v2_b1", "convnext_tiny", "swin_tiny_patch4_window7_224")


def autocast(model: nn.Module) -> Run:
    def run(x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    return run


def sixteen(model: nn.Module, dtype: torch.dtype) -> Run:
    """Weights and maps in 16 bits, the images' conversion included."""
    model = channels_last(model.to(dtype))
    return lambda x: model(x.to(dtype, memory_format=torch.channels_last))


def channels_last(model: nn.Module) -> Any:
    return model.to(memory_format=torch.channels_last)


def fused(**settings: Any) -> Callable[[Any], Any]:
    return lambda model: transxnet.fuse(model, **settings)


PLAIN: dict[str, Any] = {"channels_last": False, "pointwise": "conv", "depthwise": "split"}
LAST: dict[str, Any] = {"channels_last": True, "pointwise": "linear", "depthwise": "split"}

FORMS: dict[str, Callable[[Any], Run]] = {
    "literal": Literal,
    "eager": lambda model: model,
    "fused": fused(),
    "plain": fused(**PLAIN),
    "plain-single": fused(**PLAIN | {"depthwise": "single"}),
    "plain-shifted": fused(**PLAIN, idconv="shifted"),
    "last": fused(**PLAIN | {"channels_last": True}),
    "last-linear": fused(**LAST),
    "last-linear-mixed": fused(**LAST | {"depthwise": ["split", "single", "single", "single"]}),
    "native": lambda model: channels_last(transxnet.fuse(model, native=True)),
    "native-bfloat16": lambda model: sixteen(transxnet.fuse(model, native=True), torch.bfloat16),
    "native-float16": lambda model: sixteen(transxnet.fuse(model, native=True), torch.float16),
    "autocast": lambda model: autocast(transxnet.fuse(model, **PLAIN)),
    "last-linear-autocast": lambda model: autocast(transxnet.fuse(model, **LAST)),
    "bfloat16": lambda model: sixteen(transxnet.fuse(model), torch.bfloat16),
    "last-linear-bfloat16": lambda model: sixteen(transxnet.fuse(model, **LAST), torch.bfloat16),
}
"""All but the first two are fused; "autocast" and "bfloat16" are mixed precision and bfloat16 weights."""


def network(options: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    create: Any = transxnet.create_backbone if options.task == "dense" else transxnet.create_model
    model: nn.Module = create(options.model).eval()
    for name, parameter in model.named_parameters():  # as after training: every part shows in the output
        if ".scale" in name or "position_bias" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def peer(name: str, size: tuple[int, int], options: argparse.Namespace) -> nn.Module:
    settings: dict[str, Any] = {"features_only": True} if options.task == "dense" else {}
    if name.startswith("swin"):
        settings["img_size"] = size
    return timm.create_model(name, **settings).eval()


def time_in_turns(runs: dict[str, Run], x: Tensor, rounds: int, warm_up: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm_up + rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run(x)
            if turn >= warm_up:
                times[name].append(time.perf_counter() - began)
    return times


def product_rate(size: int = 2048) -> float:
    """GFLOP/s of PyTorch's product of two square matrices, float32."""
    one, other = torch.randn(size, size), torch.randn(size, size)
    times = time_in_turns({"product": lambda x: x @ other}, one, 10, 3)["product"]
    return 2 * size**3 / statistics.median(times) / 1e9


def operations(model: nn.Module, x: Tensor) -> float:
    """GFLOP of a pass, counted in products and convolutions."""
    with torch.inference_mode(False), FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta")(torch.empty(x.shape, device="meta"))
    return counter.get_total_flops() / 1e9


def deviation(output: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest value."""
    pairs = zip(output, expected, strict=True) if isinstance(expected, list) else [(output, expected)]
    return max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)


def table(batch: int, size: tuple[int, int], options: argparse.Namespace) -> None:
    model = network(options)
    runs = {name: FORMS[name](model) for name in options.forms}
    x = torch.randn(batch, 3, *size)
    expected = model(x)
    differences = {name: deviation(run(x), expected) for name, run in runs.items()}
    runs |= {name: peer(name, size, options) for name in (PEERS if options.peers else ())}
    times = time_in_turns(runs, x, options.rounds, options.warm_up)
    rate, work = product_rate(), operations(model, x)
    base = statistics.median(times[options.forms[0]])
    what = "backbone" if options.task == "dense" else "classifier"
    print(f"\n{options.model} as a {what}, batch {batch}, {size[0]} × {size[1]}\n")
    print(f"{work:.1f} GFLOP a pass; a product of matrices of 2048 × 2048: {rate:.0f} GFLOP/s\n")
    print(f"| form | median | 10th–90th percentile | times as fast as {options.forms[0]} | deviation | of the rate |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, values in times.items():
        ordered = sorted(1000 * value for value in values)
        low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
        differs = f"{differences[name]:.0e}" if name in differences else ""
        middle = statistics.median(values)
        share = f"{work / middle / rate:.0%}" if name in differences else ""
        print(
            f"| {name} | {1000 * middle:.1f} ms | {low:.1f}–{high:.1f} ms | {base / middle:.2f} | {differs} | {share} |"
        )
    sys.stdout.flush()


def pair(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("classify", "dense"), default="classify")
    parser.add_argument("--model", default="transxnet_tiny")
    parser.add_argument("--size", type=pair, help="pixels; 224 for classifiers, 800x1280 for backbones if not given")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--forms", nargs="+", choices=FORMS, metavar="FORM", default=list(FORMS),
                        help="some of: " + "; ".join(FORMS))  # fmt: skip
    parser.add_argument("--peers", action="store_true", help="also timm's " + ", ".join(PEERS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = options.size or ((800, 1280) if options.task == "dense" else (224, 224))
    print(
        f"transxnet {transxnet.__version__}, torch {torch.__version__}, timm {timm.__version__}; "
        f"{torch.backends.cpu.get_cpu_capability()}, {options.threads} threads, float32 unless noted; "
        f"{options.rounds} passes of each form in turns"
    )
    with torch.inference_mode():
        for batch in options.batch:
            table(batch, size, options)


if __name__ == "__main__":
    main()
