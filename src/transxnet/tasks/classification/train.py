"""A classification run from the recipe to the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from rich.console import Console

from transxnet.checkpoints.writing import save_model
from transxnet.data.loading import BadImages, LabelledImages, ResumableLoader, make_loader
from transxnet.data.sources import ImageSource, LabelledData, open_data
from transxnet.data.transforms import evaluation_transform, training_transform
from transxnet.model import TransXNet
from transxnet.registry import create_model, load_model
from transxnet.tasks.classification.evaluate import Evaluation, Outputs, evaluate, run_network
from transxnet.tasks.classification.labels import label_names, readable_names
from transxnet.tasks.classification.recipe import ClassificationRecipe
from transxnet.tasks.classification.task import ClassificationTask
from transxnet.training.callbacks import History
from transxnet.training.engine import out_of_memory_explained, quiet_lightning
from transxnet.training.figures import Verdict, save_curves, save_samples
from transxnet.training.run_folder import RunFolder
from transxnet.training.running import Run, TrainingResult, finish, fit, prepare

_SHEET = 32
RELEASED_CHECKPOINT = "released"


def train_classifier(
    recipe: ClassificationRecipe,
    folder: RunFolder,
    console: Console,
    *,
    resume: Path | None = None,
    profile: bool = False,
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
        task = ClassificationTask(model, recipe, bad)
        run = prepare(recipe, task, data.train.name, folder, console, profile=profile, resume=resume)
        if not fit(run, *_loaders(run, recipe, model, data), folder, console, resume):
            return None
    return _finish(run, recipe, model, data, folder)


def _loaders(
    run: Run, recipe: ClassificationRecipe, model: TransXNet, data: LabelledData
) -> tuple[ResumableLoader, ResumableLoader]:
    described = vars(model)["pretrained_cfg"]
    training = LabelledImages(
        data.train, training_transform(described, recipe.augmentation), seed=recipe.seed, replace_bad=True
    )
    validation = LabelledImages(data.validation, evaluation_transform(described))
    settings: dict[str, Any] = {"train": True, "seed": recipe.seed, "batches_per_step": recipe.accumulate}
    return (
        make_loader(training, recipe.batch_size, **settings, **run.place),
        make_loader(validation, recipe.batch_size, **run.place),
    )


def _finish(
    run: Run, recipe: ClassificationRecipe, model: TransXNet, data: LabelledData, folder: RunFolder
) -> TrainingResult:
    save_model(model, folder.weights)
    device = str(run.trainer.strategy.root_device)
    outputs = run_network(model, data.validation, batch_size=recipe.batch_size, workers=recipe.workers, device=device)
    judged = evaluate(outputs)
    _save_pictures(model, data.validation, outputs, judged, run.history, folder)
    right = round(judged.top1 * judged.images)
    top5 = f", top-5 {judged.top5:.2%}" if judged.top5 is not None else ""
    headline = f"test accuracy {judged.top1:.2%} ({right} of {judged.images} held-out images){top5}"
    scores = {"top1": judged.top1, "top5": judged.top5, "validation_images": judged.images}
    return finish(run, folder, headline, scores, len(data.train.targets))


def build_model(recipe: ClassificationRecipe, class_names: Sequence[str]) -> TransXNet:
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
    save_curves(history.epochs, run.curves, title, loss="cross entropy", score=("val/top1", "validation top-1"))
