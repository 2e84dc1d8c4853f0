"""Overhead of the trainer over a bare training loop, and throughput of the input pipeline.

    python benchmarks/training_speed.py

The trainer's steps and those of a bare loop (forward, backward, optimizer) take turns in one process on the
same batches; the figure is the ratio of the medians. Then the input pipeline is timed alone, without workers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import timm
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from rich.console import Console
from timm.optim import create_optimizer_v2
from torch.nn import functional as F
from torch.utils.data import DataLoader

import transxnet
from transxnet import kernels
from transxnet.classification.experiment import build_network
from transxnet.classification.task import ClassificationTask
from transxnet.cli.train import parse_recipe
from transxnet.data.loader import BadImages, LabelledImages, make_loader
from transxnet.data.sources import open_data
from transxnet.data.transforms import training_transform
from transxnet.training.monitors import Monitors
from transxnet.training.run import set_up_process
from transxnet.training.run_folder import RunFolder
from transxnet.training.trainer import kernel_policy, make_trainer


class TakingTurns(Callback):
    """After each of the trainer's steps, one of the bare loop."""

    def __init__(self, model: torch.nn.Module, warm_up: int) -> None:
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-6, weight_decay=0.05)
        self.warm_up = warm_up
        self.trainer_s: list[float] = []
        self.bare_s: list[float] = []
        self._ended = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        began = time.perf_counter()
        self.optimizer.zero_grad()
        images = batch.images.contiguous(memory_format=torch.channels_last)
        F.cross_entropy(self.model(images), batch.targets).backward()
        self.optimizer.step()
        now = time.perf_counter()
        if batch_idx >= self.warm_up:
            self.trainer_s.append(began - self._ended)
            self.bare_s.append(now - began)
        self._ended = now


def make_photographs(folder: Path, count: int) -> None:
    """JPEG files of ImageNet's usual size, of smooth noise."""
    generator = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        path = folder / str(index % 2) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        make_photographs(Path(root) / "photos", 200)
        recipe = replace(
            parse_recipe(["--recipe", "imagenet/tiny"]),
            data=f"{root}/photos",
            batch_size=8,
            workers=0,
            accelerator="cpu",
        )
        data = open_data(recipe.data)
        model = build_network(recipe, data.train.class_names)
        bare = build_network(recipe, data.train.class_names)
        described = vars(model)["pretrained_cfg"]
        images = LabelledImages(data.train, training_transform(described, recipe.augmentation), replace_bad=True)
        loader = make_loader(images, 8, train=True)
        began = time.perf_counter()
        batches = list(loader)
        pipeline = sum(len(batch.targets) for batch in batches) / (time.perf_counter() - began)

        folder = RunFolder(Path(root) / "run")
        task = ClassificationTask(model, recipe, BadImages(1, 1))
        set_up_process(model, recipe)
        monitors = Monitors.create(recipe, task, data.train.name, folder, Console(quiet=True))
        trainer = make_trainer(recipe, folder, monitors)
        turns = TakingTurns(bare.train(), warm_up=3)
        trainer.callbacks.append(turns)  # type: ignore[attr-defined]
        trainer.fit_loop.max_epochs = 1
        steps = batches[: options.steps + turns.warm_up]
        with kernels.use(kernel_policy(recipe, "cpu")):
            trainer.fit(task, DataLoader(steps, batch_size=None))  # type: ignore[arg-type]

    ours, plain = statistics.median(turns.trainer_s), statistics.median(turns.bare_s)
    print(
        f"transxnet {transxnet.__version__}, torch {torch.__version__}, lightning {lightning.__version__}, timm "
        f"{timm.__version__}; {torch.get_num_threads()} threads, float32, transxnet_tiny at 224 x 224, batch 8, "
        f"{len(turns.bare_s)} steps of each in turns\n"
        f"bare step     {1000 * plain:7.0f} ms (median)\n"
        f"trainer step  {1000 * ours:7.0f} ms (median; mixing, erasing, averaging, checks, display included)\n"
        f"ratio         {ours / plain:7.3f}\n"
        f"pipeline      {pipeline:7.1f} images/s in the main process (JPEG of 500 x 375, the recipe's augmentation)\n"
        f"step consumes {8 / plain:7.1f} images/s; the pipeline delivers {pipeline * plain / 8:.1f} times that"
    )


if __name__ == "__main__":
    main()
