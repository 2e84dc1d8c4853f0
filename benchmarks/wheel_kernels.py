"""Speed of a wheel's kernels, for each level of processors, relative to kernels compiled for this very processor.

    make wheel
    python benchmarks/wheel_kernels.py dist/transxnet-*_x86_64.whl --size 224 --batch 1 --repeats 60

All run in one process and take turns, image by image; the figures are medians. Levels that the processor does not have
are left out, and so is float16 where a level does not compute in it.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import statistics
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import transxnet
from transxnet.kernels.cpu import blocks, build, levels, numbers, openmp, prebuilt
from transxnet.kernels.cpu.shared_library import load

FLOAT16 = torch.float16


class Kernels:
    """Kernels of one origin, by whether they compute in float16."""

    def __init__(self, libraries: Mapping[bool, ctypes.CDLL]) -> None:
        self.libraries = libraries
        self._function = functools.cache(lambda name, number: libraries[number == FLOAT16][name])
        self._blocks = functools.cache(blocks._functions.__wrapped__)

    def use(self) -> None:
        """Compute with these kernels from now on."""
        numbers.function = self._function
        numbers.has_float16 = lambda: True in self.libraries
        blocks._functions = self._blocks


def from_wheel(path: Path) -> dict[str, Kernels]:
    """The kernels of a wheel for the levels that this processor has."""
    flags = levels.processor_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    machine = os.uname().machine
    openmp.share()
    found = {}
    with zipfile.ZipFile(path) as wheel:
        for level in reversed([level for level in levels.LEVELS[machine] if level.flags <= flags]):
            names = {False: level.float32} | ({True: level.float16} if level.float16 else {})
            members = {float16: f"transxnet/kernels/cpu/{levels.FOLDER}/{name}.so" for float16, name in names.items()}
            libraries = {float16: load(wheel.read(member)) for float16, member in members.items()}
            found[level.float16 or level.float32] = Kernels(libraries)
    return found


def compiled_here() -> Kernels:
    """Kernels compiled with -march=native."""
    os.environ[prebuilt.VARIABLE] = "1"
    return Kernels({float16: build.library(float16) for float16 in ({False, True} if build.has_float16() else {False})})


def measure(fused: Any, x: torch.Tensor, origins: Mapping[str, Kernels], repeats: int) -> dict[str, float]:
    """Median seconds of an image batch, by origin."""
    times: dict[str, list[float]] = {name: [] for name in origins}
    with torch.inference_mode():
        for turn in range(repeats + 3):
            for name, kernels in origins.items():
                kernels.use()
                start = time.perf_counter()
                fused(x)
                if turn >= 3:  # the first ones warm up
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--model", default="transxnet_tiny")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    origins = {"native": compiled_here(), **from_wheel(arguments.wheel)}
    fused = transxnet.fuse(transxnet.create_model(arguments.model).eval(), native=True)
    x = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    print(f"{arguments.model}, {tuple(x.shape)}, {arguments.threads} threads, {arguments.repeats} turns")
    for dtype in (torch.float32, FLOAT16):
        chosen = {name: each for name, each in origins.items() if dtype != FLOAT16 or True in each.libraries}
        if chosen:
            seconds = measure(fused.to(dtype), x.to(dtype), chosen, arguments.repeats)
            for name, each in seconds.items():
                print(f"{dtype!s:15} {name:12} {1e3 * each:8.2f} ms {each / seconds['native']:6.3f} of native")


if __name__ == "__main__":
    main()
