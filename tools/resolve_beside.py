"""Which releases are chosen where this package is installed beside others.

    python tools/resolve_beside.py > docs/measured/conflicts.txt

Each line is one resolution by ``uv pip compile``, for which nothing is installed. A resolver may avoid a conflict
by choosing an old release of the other package, so that release is compared with the newest one for that Python.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMPARED = (
    ("", "anomalib"),
    ("train", "anomalib"),
    ("all", "segmentation-models-pytorch"),
    ("all", "lightly-train"),
    ("all", "rfdetr"),
    ("", "autogluon-multimodal"),
    ("train", "autogluon-multimodal"),
)
"""Our extra, if any, and the other package."""

SHOWN = ("torch", "numpy", "lightning", "jsonargparse")


def compiled(requirements: str, python: str, *options: str) -> tuple[dict[str, str], str]:
    """The chosen version of each package; without a solution none, and the resolver's explanation."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    options = ("--quiet", "--no-header", "--no-annotate", "--python-version", python, *options)
    command = [uv, "pip", "compile", *options, "-"]
    done = subprocess.run(command, input=requirements, capture_output=True, text=True, cwd=ROOT, check=False)
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)", done.stdout, re.MULTILINE))
    return versions, "" if done.returncode == 0 else " ".join(re.sub(r"[^\x20-\x7e]+", " ", done.stderr).split())


def line(extra: str, other: str, python: str) -> tuple[str, str]:
    """A row of the table; and why there is no solution, or an old release."""
    newest = compiled(other, python, "--no-deps")[0].get(other, "")
    ours = f"transxnet[{extra}]" if extra else "transxnet"
    versions, _ = compiled(f"{ours} @ {ROOT.as_uri()}\n{other}\n", python)
    chosen = versions.get(other, "")
    if chosen == newest:
        outcome, fault = "newest", ""
    else:
        outcome = f"not {newest}" if chosen else "no solution"
        fault = compiled(f"{ours} @ {ROOT.as_uri()}\n{other}=={newest}\n", python)[1]
    cells = [ours, python, other, chosen or "–", outcome, *(versions.get(name, "–") for name in SHOWN)]
    return f"| {' | '.join(cells)} |", f"{ours}, {other} {newest}, Python {python}: {fault}" if fault else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12"])
    options = parser.parse_args()
    columns = ["this package", "Python", "beside", "chosen", "is", *SHOWN]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    faults = []
    for (extra, other), python in itertools.product(COMPARED, options.python):
        row, fault = line(extra, other, python)
        print(row, flush=True)
        faults.append(fault)
    print(*(f"\n{fault}" for fault in faults if fault), sep="\n", end="")


if __name__ == "__main__":
    main()
