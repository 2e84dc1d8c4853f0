"""A classification run from the recipe to the run folder."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from rich.console import Console

from transxnet.checkpoints.reading import read_checkpoint
from transxnet.checkpoints.writing import save_model
from transxnet.data.loading import BadImages, LabelledImages, make_loader
from transxnet.data.sources import ImageSource, LabelledData, open_data
from transxnet.data.transforms import evaluation_transform, training_transform
from transxnet.model import TransXNet
from transxnet.registry import create_model, load_model
from transxnet.tasks.classification.evaluate import Evaluation, Outputs, evaluate, run_network
from transxnet.tasks.classification.labels import label_names, readable_names
from transxnet.tasks.classification.task import ClassificationTask
from transxnet.training.averaging import MovingAverage, SameStatistics
from transxnet.training.callbacks import AddressedSteps, History, ProgressDisplay
from transxnet.training.checkpointing import Checkpointer, WholeFiles, step_of
from transxnet.training.engine import make_trainer, out_of_memory_explained, quiet_lightning
from transxnet.training.figures import Verdict, save_curves, save_samples
from transxnet.training.finite import FiniteSteps
from transxnet.training.recipe import Recipe
from transxnet.training.run_folder import RunFolder
from transxnet.training.stopping import StopOnSignal
from transxnet.training.timing import Profile, StepTimes

_SHEET = 32
RELEASED_CHECKPOINT = "released"


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        evaluation: Of the final (averaged) weights on the validation images.
        seconds: From the first step to the last, of all the parts of a resumed run.
        images_per_second: Training images through the training steps, waiting for images included.
        peak_memory: In bytes: of the GPU, or of the process.
        skipped_steps: Steps without a finite gradient.
        bad: Name and reason of each image that could not be used.
    """

    evaluation: Evaluation
    seconds: float
    images_per_second: float
    peak_memory: int
    skipped_steps: int
    bad: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A run's parts.

    Attributes:
        trainer: Lightning's engine.
        task: Loss and metrics around the network.
        history: The metrics of every epoch.
        finite: Skips and counts steps without a finite gradient.
        times: Where the time goes.
    """

    trainer: Trainer
    task: ClassificationTask
    history: History
    finite: FiniteSteps
    times: StepTimes


def train_classifier(
    recipe: Recipe, folder: RunFolder, console: Console, *, resume: Path | None = None, profile: bool = False
) -> TrainingResult | None:
    """Train as the recipe says, and leave weights, metrics and pictures in the run folder.

    Args:
        recipe: What to do.
        folder: Where the results go.
        console: Where progress is shown.
        resume: The checkpoint to go on from.
        profile: Tell where the time goes, and write a trace.

    Returns:
        The result; None in all processes but the first.

    Raises:
        TransXNetError: If the data, the checkpoint or a setting cannot be used.
        Stopped: If a signal asked to stop.
    """
    seed_everything(recipe.seed, verbose=False)
    data = open_data(recipe.data, recipe.seed)
    model = build_model(recipe, data.train.class_names)
    bad = BadImages(len(data.train.targets) + len(data.validation.targets), recipe.max_bad)
    with quiet_lightning(), out_of_memory_explained(recipe):
        run = prepare(recipe, model, data, folder, bad, console, profile=profile, resume=resume)
        console.print(
            f"{run.task.images_per_step} images a step, learning rate up to {run.task.scaled(recipe.lr):.3g}, "
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters"
        )
        _fit(run, recipe, data, folder, resume)
    if not run.trainer.is_global_zero:
        return None
    if run.trainer.global_step and resume and not run.times.counts["step"]:
        # Only the end was missing: the averaged weights are in the checkpoint.
        model.load_state_dict(read_checkpoint(resume).state_dict)
    return _finish(run, recipe, model, data, folder)


def _finish(run: Run, recipe: Recipe, model: TransXNet, data: LabelledData, folder: RunFolder) -> TrainingResult:
    seconds = run.history.seconds
    save_model(model, folder.weights)
    device = str(run.trainer.strategy.root_device)
    outputs = run_network(model, data.validation, batch_size=recipe.batch_size, workers=recipe.workers, device=device)
    judged = evaluate(outputs)
    _save_pictures(model, data.validation, outputs, judged, run.history, folder)
    in_step = run.times.seconds["data"] + run.times.seconds["step"]
    images = recipe.batch_size * run.trainer.world_size * run.times.counts["step"]
    result = TrainingResult(
        judged,
        seconds,
        images / in_step if in_step else 0.0,
        _peak_memory(),
        run.finite.skipped,
        run.task.bad.reasons,
    )
    folder.write_summary(
        {
            "top1": judged.top1,
            "top5": judged.top5,
            "validation_images": judged.images,
            "training_images": len(data.train.targets),
            "epochs": recipe.total_epochs,
            "steps": run.trainer.global_step,
            "images_per_step": run.task.images_per_step,
            "learning_rate": run.task.scaled(recipe.lr),
            "seconds": result.seconds,
            "images_per_second": result.images_per_second,
            "waiting_for_data": run.times.data_share,
            "peak_memory_bytes": result.peak_memory,
            "skipped_steps": result.skipped_steps,
            "bad_images": result.bad,
        }
    )
    return result


def _peak_memory() -> int:
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def build_model(recipe: Recipe, class_names: Sequence[str]) -> TransXNet:
    """The recipe's network for these classes, with the start it asks for.

    A classifier that was trained for other classes is replaced by a new one.
    """
    settings: dict[str, Any] = {"num_classes": len(class_names), "drop_path_rate": recipe.drop_path}
    if recipe.image_size is not None:
        settings["img_size"] = recipe.image_size
    if recipe.model is None:
        model = load_model(recipe.checkpoint or "", **settings)
    elif recipe.checkpoint == RELEASED_CHECKPOINT:
        model = create_model(recipe.model, pretrained=True, **settings)
    else:
        model = create_model(recipe.model, checkpoint=recipe.checkpoint, **settings)
    if recipe.checkpoint and label_names(model) != list(class_names):
        model.reset_classifier(len(class_names))
    described = vars(model)["pretrained_cfg"]
    size = (recipe.image_size,) * 2 if recipe.image_size else model.config.img_size
    described |= {
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "input_size": (model.in_chans, *size),
        "crop_pct": recipe.eval_crop,
    }
    return model


def prepare(
    recipe: Recipe,
    model: TransXNet,
    data: LabelledData,
    folder: RunFolder,
    bad: BadImages,
    console: Console,
    *,
    profile: bool = False,
    resume: Path | None = None,
) -> Run:
    """The trainer, the task around the network, and what watches them."""
    model.set_grad_checkpointing(recipe.grad_checkpointing)
    if recipe.compile:
        for stage in model.stage_list:
            for block in stage.blocks:
                block.compile(dynamic=False)
    times = StepTimes(exact=profile)
    finite = FiniteSteps(
        recipe.max_skipped, lambda indices: [data.train.name(i) for i in indices], folder.path / "not_finite.txt"
    )
    history, files = History(folder.metrics), WholeFiles()
    checkpointer = Checkpointer(
        folder.checkpoints,
        files,
        console,
        minutes=recipe.checkpoint_minutes,
        keep=recipe.keep_checkpoints,
        metric="val/top1",
    )
    callbacks: list[Callback] = [
        AddressedSteps(recipe.seed),
        *([MovingAverage(recipe.ema_decay)] if recipe.ema_decay else []),
        SameStatistics(),
        finite,
        history,
        ProgressDisplay(console, "val/top1", "accuracy", times, finite),
        *([Profile(times, folder.path / "profile", console)] if profile else []),
        checkpointer,
        StopOnSignal(checkpointer),
    ]
    trainer = make_trainer(recipe, folder, callbacks, files, times, step_of(resume))
    task = ClassificationTask(model, recipe, bad)
    task.trainer = trainer  # knows the number of processes
    return Run(trainer, task, history, finite, times)


def _fit(run: Run, recipe: Recipe, data: LabelledData, folder: RunFolder, resume: Path | None) -> None:
    described = vars(run.task.model)["pretrained_cfg"]
    training = LabelledImages(
        data.train, training_transform(described, recipe.augmentation), seed=recipe.seed, replace_bad=True
    )
    validation = LabelledImages(data.validation, evaluation_transform(described))
    place: dict[str, Any] = {
        "rank": run.trainer.global_rank,
        "world_size": run.trainer.world_size,
        "workers": recipe.workers,
    }
    loaders = (
        make_loader(
            training, recipe.batch_size, train=True, seed=recipe.seed, batches_per_step=recipe.accumulate, **place
        ),
        make_loader(validation, recipe.batch_size, **place),
    )
    if run.trainer.is_global_zero:
        folder.make()
        folder.write_config(recipe)  # from here on the folder holds a run
    run.trainer.fit(run.task, *loaders, ckpt_path=resume, weights_only=True)


def _save_pictures(
    model: TransXNet, source: ImageSource, outputs: Outputs, judged: Evaluation, history: History, run: RunFolder
) -> None:
    names = readable_names(model)
    best = outputs.probabilities.max(dim=1)
    wrong = (best.indices != outputs.targets).nonzero().flatten().tolist()
    right = (best.indices == outputs.targets).nonzero().flatten().tolist()
    shown_wrong = wrong[: _SHEET // 2]
    count = min(_SHEET - len(shown_wrong), len(right))
    spread = torch.linspace(0, len(right) - 1, count).long().tolist() if right else []
    verdicts = [
        Verdict(
            source.load(int(outputs.places[row])),
            names[int(outputs.targets[row])],
            names[int(best.indices[row])],
            float(best.values[row]),
        )
        for row in [*shown_wrong, *(right[i] for i in spread)]
    ]
    name = vars(model)["pretrained_cfg"].get("architecture", "TransXNet")
    title = f"{name}: {judged.top1:.1%} of {judged.images} held-out images right"
    errors = f"; {len(shown_wrong)} of {len(wrong)} errors first" if len(wrong) > len(shown_wrong) else ""
    save_samples(verdicts, run.samples, title + errors)
    save_curves(history.epochs, run.curves, title)
