"""A training run of any task, from the recipe to the report."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from rich.console import Console
from torch import nn

from transxnet import kernels
from transxnet.checkpoints.reading import read_checkpoint
from transxnet.checkpoints.writing import save_model
from transxnet.data.description import DataDescription
from transxnet.data.fingerprint import Fingerprint
from transxnet.errors import CheckpointError, ConfigError, Stopped, TransXNetError
from transxnet.files import read_json, reading, reason, user_path
from transxnet.model import Stage
from transxnet.text import counted
from transxnet.training.acceleration import accelerated
from transxnet.training.checkpointing import step_of
from transxnet.training.data_changes import DataChanged, ResumedData
from transxnet.training.experiment import Experiment
from transxnet.training.memory import keep_freed_memory, maximum_memory
from transxnet.training.monitors import Monitors
from transxnet.training.processes import Process
from transxnet.training.recipe import Recipe, uses_gpu
from transxnet.training.run_folder import RunFolder
from transxnet.training.signals import interruptible
from transxnet.training.task import Task
from transxnet.training.trainer import kernel_policy, make_trainer, out_of_memory_explained, quiet_lightning
from transxnet.version import __version__

AnyExperiment = Experiment[Any, Any, Any, Any]
Evaluated = Callable[[nn.Module, str], nn.Module]


@dataclass(frozen=True)
class TrainingResult:
    """Result of a finished run: the contents of its ``summary.json``.

    Attributes:
        folder: The run folder.
        headline: Scores of the final (averaged) weights on the validation images, in words.
        scores: The same as plain values.
        parameters: Number of parameters.
        training_images: Number of training images.
        epochs: Epochs of the run.
        steps: Optimizer steps.
        images_per_step: Images of all devices in a step.
        learning_rate: The highest one.
        seconds: From the first step to the last, of all parts of a resumed run.
        images_per_second: Training images through the training steps, waiting for images included.
        waiting_for_data: Share of the steps' time spent waiting for images.
        peak_memory_bytes: Maximum memory, of the GPU or of the process.
        skipped_steps: Steps skipped because the gradient was not finite.
        kernels: Kernels that computed the run, in order: "reference" (PyTorch's), "native" (ours in C++) or
            "triton" (ours for GPUs).
        bad_images: Name and reason of each image that could not be used.
        data: What was found in the data set.
        versions: Versions of Python and of the packages that the result depends on.
    """

    folder: Path
    headline: str
    scores: dict[str, Any]
    parameters: int
    training_images: int
    epochs: int
    steps: int
    images_per_step: int
    learning_rate: float
    seconds: float
    images_per_second: float
    waiting_for_data: float
    peak_memory_bytes: int
    skipped_steps: int
    kernels: list[str]
    bad_images: dict[str, str]
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as in ``summary.json``."""
        values = {name: value for name, value in vars(self).items() if name not in ("folder", "headline", "scores")}
        return {"headline": self.headline, **self.scores, **values}

    @classmethod
    def read(cls, folder: RunFolder) -> TrainingResult:
        """Result of a run that was finished before.

        Raises:
            ConfigError: If its summary cannot be read.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        with reading(folder.summary, ConfigError, "remove it and resume the run, which writes it again"):
            summary = {"headline": "", **read_json(folder.summary)}
            scores = {name: value for name, value in summary.items() if name not in names}
            return cls(folder.path, scores=scores, **{name: summary[name] for name in names if name in summary})


def train(
    experiment_class: type[AnyExperiment],
    recipe: Recipe,
    folder: RunFolder,
    console: Console,
    *,
    resume: Path | None = None,
    profile: bool = False,
    data_changed: DataChanged = "refuse",
    evaluated: Evaluated = lambda network, device: network,
) -> TrainingResult | None:
    """Train by a recipe, and write weights, metrics and pictures into the run folder.

    Args:
        experiment_class: Data, network, loss and evaluation of the recipe's task.
        recipe: The settings.
        folder: The run folder.
        console: Prints progress.
        resume: The checkpoint to resume from.
        profile: Measure the parts of a step, and write a trace.
        data_changed: Whether to resume a run whose data changed, with the same held-out images.
        evaluated: The form in which the trained network is evaluated on a device.

    Returns:
        The result; None on all ranks but zero.

    Raises:
        TransXNetError: If the data, the checkpoint or a setting cannot be used.
        Stopped: If a signal stopped the run.
    """
    seed_everything(recipe.seed, verbose=False)
    experiment, description, fingerprint = _opened(experiment_class, recipe, resume, data_changed, console)
    network = experiment.build_network()
    task = experiment.build_task(network)
    task.data = fingerprint.state()

    with quiet_lightning(), out_of_memory_explained(recipe), accelerated(network, recipe, gpu=uses_gpu(recipe)):
        set_up_process(network, recipe)
        monitors = Monitors.create(recipe, task, experiment.image_name, folder, console, profile=profile)
        trainer = make_trainer(recipe, folder, monitors, first_step=step_of(resume))
        device = str(trainer.strategy.root_device)
        policy = kernel_policy(recipe, device)
        task.kernels, task.report = [policy], lambda line: console.print(line, markup=False)
        training, validation = experiment.loaders(network, Process(trainer.global_rank, trainer.world_size))
        console.print(_introduction(recipe, network, trainer.world_size))
        if trainer.is_global_zero:
            folder.begin(recipe, description.to_dict() | {"fingerprint": fingerprint.to_dict()})
        with _computed_by(policy, device), _resume_explained(resume, monitors), interruptible():
            trainer.fit(task, training, validation, ckpt_path=resume, weights_only=True)
        if trainer.is_global_zero and resume and trainer.global_step and not monitors.times.counts["step"]:
            # Only the end was missing: the averaged weights are in the checkpoint.
            network.load_state_dict(read_checkpoint(resume).state_dict)
    if not trainer.is_global_zero:
        return None
    save_model(network, folder.weights)
    with _computed_by(policy, device):
        evaluation = _evaluate(experiment, evaluated(network, device), device, monitors, folder)
    result = _result(experiment, evaluation, trainer, task, monitors, folder, description)
    folder.write_summary(result.to_dict())
    return result


def _evaluate(experiment: AnyExperiment, network: nn.Module, device: str, monitors: Monitors, folder: RunFolder) -> Any:
    """Evaluate the trained network, and draw its predictions and the run's curves."""
    evaluation = experiment.evaluate(network, device)
    experiment.draw(network, evaluation, monitors.history.epochs, folder)
    return evaluation


def _opened(
    experiment_class: type[AnyExperiment], recipe: Recipe, resume: Path | None, changed: DataChanged, console: Console
) -> tuple[AnyExperiment, DataDescription, Fingerprint]:
    """Open the data set, print its description, and take its fingerprint."""
    resumed = ResumedData(user_path(recipe.data), resume, changed)
    experiment = experiment_class(recipe, resumed.adopt)
    description = experiment.description
    for remark in resumed.remarks:
        description.findings.remark(remark)
    for line in description.lines():
        console.print(line, markup=False)
    return experiment, description, Fingerprint.of(experiment.data, resumed.root, description)


def set_up_process(network: nn.Module, recipe: Recipe) -> None:
    """Prepare the blocks for checkpointing, and a CPU process's memory for repeated steps."""
    for module in list(network.modules()):
        if isinstance(module, Stage):
            module.grad_checkpointing = recipe.grad_checkpointing
    if not torch.cuda.is_available():
        keep_freed_memory()


def _computed_by(policy: kernels.Policy, device: str) -> AbstractContextManager[None]:
    """Compute a run's operators by its policy; in a run on a GPU, what is left to the CPU is PyTorch's."""
    return kernels.use("auto" if policy == "triton" and device.startswith("cuda") else policy)


def _result(
    experiment: AnyExperiment,
    evaluation: Any,
    trainer: Trainer,
    task: Task,
    monitors: Monitors,
    folder: RunFolder,
    description: DataDescription,
) -> TrainingResult:
    recipe, times, world_size = experiment.recipe, monitors.times, trainer.world_size
    return TrainingResult(
        folder.path,
        experiment.headline(evaluation),
        experiment.scores(evaluation),
        parameters=_parameters(task.model),
        training_images=experiment.training_images,
        epochs=recipe.total_epochs,
        steps=trainer.global_step,
        images_per_step=recipe.images_per_step(world_size),
        learning_rate=recipe.scaled(recipe.lr, world_size),
        seconds=monitors.history.seconds,
        images_per_second=times.images_per_second(recipe.batch_size * world_size),
        waiting_for_data=times.data_share,
        peak_memory_bytes=maximum_memory(),
        skipped_steps=monitors.finite.skipped,
        kernels=task.kernels,
        bad_images=task.bad.reasons,
        data=description.to_dict(),
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute, as they are installed."""
    found = {"python": platform.python_version(), "transxnet": __version__}
    for name in ("torch", "torchvision", "timm", "lightning", "numpy", "pillow"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _introduction(recipe: Recipe, network: nn.Module, world_size: int) -> str:
    return (
        f"{counted(recipe.images_per_step(world_size), 'image')} a step, learning rate up to "
        f"{recipe.scaled(recipe.lr, world_size):.3g}, {_parameters(network) / 1e6:.2f} M parameters"
    )


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def _resume_explained(resume: Path | None, monitors: Monitors) -> Iterator[None]:
    """Report in one line what Lightning or PyTorch raises up to the end of the first step if a checkpoint does not fit.

    Raises:
        CheckpointError: Instead of any such error.
    """
    try:
        yield
    except (Stopped, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        history = monitors.history
        if resume is None or history.stepped or (history.started and isinstance(error, TransXNetError)):
            raise
        raise CheckpointError(f"training cannot be resumed from {resume}: {reason(error)}") from error
