"""Time of ``import transxnet`` beside ``import timm``: processes in turns, medians of processor and wall-clock time.

python benchmarks/import_time.py --repeats 9
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

PACKAGES = ("timm", "transxnet")


def timed(package: str) -> tuple[float, float]:
    """Seconds of the processor and of the clock that a process which imports a package takes."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {package}"], check=True)
    wall, after = time.perf_counter() - start, os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    for package in PACKAGES:
        timed(package)  # files are cached from now on
    pairs = [[timed(package) for package in PACKAGES] for _ in range(repeats)]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", *PACKAGES))
    print(f"{versions}, Python {platform.python_version()}; {repeats} processes each, in turns\n")
    print("|  | import timm, s | import transxnet, s | ratio, median of pairs (smallest to largest) |")
    print("|---|---:|---:|---:|")
    for index, name in enumerate(("processor", "clock")):
        theirs, ours = ([pair[package][index] for pair in pairs] for package in range(2))
        ratios = sorted(our / their for our, their in zip(ours, theirs, strict=True))
        spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"| {name} | {statistics.median(theirs):.2f} | {statistics.median(ours):.2f} | {spread} |")


if __name__ == "__main__":
    main()
