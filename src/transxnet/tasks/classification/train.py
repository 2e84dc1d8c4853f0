"""A classification run from the recipe to the run folder."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from torch.optim.swa_utils import get_ema_multi_avg_fn

from transxnet.checkpoints.writing import save_model
from transxnet.data.loading import BadImages, LabelledImages, make_loader
from transxnet.data.sources import ImageSource, LabelledData, open_data
from transxnet.data.transforms import evaluation_transform, training_transform
from transxnet.errors import TransXNetError
from transxnet.files import write_text
from transxnet.model import TransXNet
from transxnet.registry import create_model
from transxnet.tasks.classification.evaluate import Evaluation, Outputs, evaluate, run_network
from transxnet.tasks.classification.labels import label_names, readable_names
from transxnet.tasks.classification.task import ClassificationTask
from transxnet.training.callbacks import AddressedSteps, History, ProgressDisplay
from transxnet.training.figures import Verdict, save_curves, save_samples
from transxnet.training.recipe import Recipe
from transxnet.training.run_folder import RunFolder

_SHEET = 32
RELEASED_CHECKPOINT = "released"


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to.

    Attributes:
        evaluation: Of the final (averaged) weights on the validation images.
        seconds: From the first step to the last.
        images_per_second: Training images, validation included in the time.
        bad: Name and reason of each image that could not be used.
    """

    evaluation: Evaluation
    seconds: float
    images_per_second: float
    bad: dict[str, str]


def train_classifier(recipe: Recipe, run: RunFolder, console: Console) -> TrainingResult:
    """Train as the recipe says, and leave weights, metrics and pictures in the run folder.

    Args:
        recipe: What to do.
        run: Where the results go.
        console: Where progress is shown.

    Raises:
        TransXNetError: If the data, the checkpoint or a setting cannot be used.
    """
    seed_everything(recipe.seed, verbose=False)
    data = open_data(recipe.data, recipe.seed)
    model = build_model(recipe, data.train.class_names)
    bad = BadImages(len(data.train.targets) + len(data.validation.targets), recipe.max_bad)
    history = History()
    started = time.monotonic()
    _fit(model, recipe, data, run, bad, [history, ProgressDisplay(console, "val/top1", "accuracy")])
    seconds = time.monotonic() - started
    save_model(model, run.weights)
    outputs = run_network(model, data.validation, batch_size=recipe.batch_size, workers=recipe.workers)
    judged = evaluate(outputs)
    _save_pictures(model, data.validation, outputs, judged, history, run)
    speed = recipe.total_epochs * len(data.train.targets) / seconds
    run.write_summary(
        {
            "top1": judged.top1,
            "top5": judged.top5,
            "validation_images": judged.images,
            "training_images": len(data.train.targets),
            "seconds": seconds,
            "images_per_second": speed,
            "bad_images": bad.reasons,
        }
    )
    return TrainingResult(judged, seconds, speed, bad.reasons)


def build_model(recipe: Recipe, class_names: Sequence[str]) -> TransXNet:
    """The recipe's network for these classes, with the start it asks for.

    A classifier that was trained for other classes is replaced by a new one.
    """
    settings: dict[str, Any] = {
        "num_classes": len(class_names),
        "img_size": recipe.image_size,
        "drop_path_rate": recipe.drop_path,
    }
    if recipe.checkpoint == RELEASED_CHECKPOINT:
        model = create_model(recipe.model, pretrained=True, **settings)
    else:
        model = create_model(recipe.model, checkpoint=recipe.checkpoint, **settings)
    if recipe.checkpoint and label_names(model) != list(class_names):
        model.reset_classifier(len(class_names))
    described = vars(model)["pretrained_cfg"]
    described |= {
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "input_size": (model.in_chans, recipe.image_size, recipe.image_size),
        "crop_pct": recipe.eval_crop,
    }
    return model


def _fit(
    model: TransXNet,
    recipe: Recipe,
    data: LabelledData,
    run: RunFolder,
    bad: BadImages,
    displays: Sequence[Callback],
) -> None:
    described = vars(model)["pretrained_cfg"]
    training = LabelledImages(
        data.train, training_transform(described, recipe.augmentation), seed=recipe.seed, replace_bad=True
    )
    validation = LabelledImages(data.validation, evaluation_transform(described))
    averaging = _averaging(recipe.ema_decay) if recipe.ema_decay else None
    callbacks: list[Callback] = [
        AddressedSteps(recipe.seed),
        *([averaging] if averaging else []),
        ModelCheckpoint(run.checkpoints, "best", monitor="val/top1", mode="max", save_last=True),
        *displays,
    ]
    with _quiet_lightning():
        run.make()
        trainer = Trainer(
            max_epochs=recipe.total_epochs,
            accumulate_grad_batches=recipe.accumulate,
            logger=[CSVLogger(run.path, "", ""), TensorBoardLogger(run.path, "", "tensorboard")],
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
        )
        loaders = (
            make_loader(training, recipe.batch_size, train=True, seed=recipe.seed, workers=recipe.workers),
            make_loader(validation, recipe.batch_size, workers=recipe.workers),
        )
        write_text(run.config, recipe.to_yaml())  # from here on the folder holds a run
        trainer.fit(ClassificationTask(model, recipe, bad), *loaders)
    if trainer.interrupted:
        raise TransXNetError(
            f"stopped in epoch {trainer.current_epoch + 1}; the last whole one is in {run.checkpoints}"
        )
    model.cpu()


def _averaging(decay: float) -> WeightAveraging:
    return WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]


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


class _quiet_lightning(warnings.catch_warnings):  # noqa: N801 (used as a function)
    """Without Lightning's remarks on loggers, workers and hardware, which are no news here."""

    def __enter__(self) -> None:
        super().__enter__()
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        for message in (".*does not have many workers.*", ".*Checkpoint directory.*", ".*TensorBoard.*",
                        ".*number of training batches.*", ".*treespec.*", ".*logs directory.*"):  # fmt: skip
            warnings.filterwarnings("ignore", message)
