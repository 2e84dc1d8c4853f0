"""Kill a training run at seeded random moments, resume it, and compare it with an uninterrupted run.

    python benchmarks/kill_and_resume.py --kills 20 --workers 0 1 2

Every run is killed once with SIGKILL, every fourth during the write of a checkpoint, and resumed with
`--resume auto`. Weights, metrics and images must be identical byte for byte, the moving average and the
optimizer's state bit for bit.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SETTINGS = ("--epochs", "2", "--batch-size", "96", "--mixup", "0.2", "--drop-path", "0.1",
            "--augmentation.erase", "0.2", "--checkpoint-minutes", "0.01", "--keep-checkpoints", "2")  # fmt: skip

FILES = ("weights.safetensors", "metrics.csv", "samples.png", "curves.png")
"""Files that are identical byte for byte in equal runs."""


def start(folder: Path, workers: int, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "transxnet", "train", *SETTINGS, "--workers", str(workers), "--out", str(folder)]
    return subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    if process.returncode != 0:
        sys.exit(f"a run failed:\n{output}")
    return output


def writing(folder: Path) -> bool:
    return any(folder.glob("checkpoints/.transxnet-*.tmp.ckpt"))


def reached(folder: Path) -> int:
    """The newest checkpoint's step."""
    steps = [int(path.stem.rpartition("step")[2]) for path in folder.glob("checkpoints/epoch*.ckpt")]
    return max(steps, default=0)


def kill(folder: Path, workers: int, step: int, after: float, while_writing: bool) -> str:
    """Start a run, kill it some seconds after a checkpoint of a step or later, and describe the moment."""
    process = start(folder, workers)
    while not (folder / "config.yaml").exists() and process.poll() is None:
        time.sleep(0.01)
    while reached(folder) < step and process.poll() is None:
        time.sleep(0.002)
    time.sleep(after)
    while while_writing and not writing(folder) and process.poll() is None:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    torn = writing(folder)
    done = (folder / "summary.json").exists()
    kept = sorted(path.name for path in folder.glob("checkpoints/epoch*.ckpt"))
    where = "after the end" if done else f"newest checkpoint {kept[-1].removesuffix('.ckpt') if kept else 'none'}"
    return where + (", one half written" if torn else "")


def contents(folder: Path) -> dict[str, Any]:
    """Everything in a run's folder that does not depend on time."""
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return {
        **{name: (folder / name).read_bytes() for name in FILES},
        "state_dict": checkpoint["state_dict"],
        "current_model_state": checkpoint["current_model_state"],
        "optimizer_states": checkpoint["optimizer_states"],
        "step": checkpoint["global_step"],
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def trial(root: Path, workers: int, number: int, step: int, after: float, reference: dict[str, Any]) -> bool:
    folder = root / f"killed-{workers}-{number}"
    while_writing = number % 4 == 0
    where = kill(folder, workers, step, after, while_writing)
    output = finish(start(folder, workers, "--resume", "auto"))
    result = contents(folder)
    differing = [name for name, value in reference.items() if not same(value, result[name])]
    source = next((line.split(", ")[-1] for line in output.splitlines() if "resuming from" in line), "from the start")
    source = "finished" if "is finished" in output else source
    verdict = "identical" if not differing else "DIFFERS in " + ", ".join(differing)
    print(f"{workers} workers, kill {number + 1:2d} ({where}); {source}: {verdict}", flush=True)
    shutil.rmtree(folder)
    return not differing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; transxnet train {' '.join(SETTINGS)}")
    failures, reference = 0, None
    with tempfile.TemporaryDirectory() as root:
        for workers in options.workers:
            whole = Path(root) / f"whole-{workers}"
            process = start(whole, workers)
            while not (whole / "config.yaml").exists() and process.poll() is None:
                time.sleep(0.01)
            began = time.monotonic()
            finish(process)
            length = time.monotonic() - began
            if reference is None:
                reference = contents(whole)
            agrees = same(reference, contents(whole))
            failures += not agrees
            print(f"{workers} workers, not killed: {length:.1f} s, {'identical' if agrees else 'DIFFERS'}", flush=True)
            generator = np.random.default_rng([options.seed, workers])
            for number in range(options.kills):
                step = int(generator.integers(reference["step"]))
                after = float(generator.uniform(0, 0.5))
                failures += not trial(Path(root), workers, number, step, after, reference)
    print(f"{failures} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
