"""What a classification run is made of, and how it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console

from transxnet.classification.evaluate import Evaluation, Outputs, evaluate, run_network
from transxnet.classification.labels import label_names, readable_names
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.classification.task import ClassificationTask
from transxnet.data.loader import BadImages, LabelledImages, ResumableLoader, make_loader
from transxnet.data.sources import ImageSource, LabelledData, open_data
from transxnet.data.transforms import evaluation_transform, training_transform
from transxnet.model import TransXNet
from transxnet.plotting.run_figures import Prediction, save_curves, save_samples
from transxnet.training.callbacks import History
from transxnet.training.run_folder import RunFolder
from transxnet.training.running import Plan, Run
from transxnet.zoo import create_model, load_model

_SHEET = 32
RELEASED_CHECKPOINT = "released"


def plan(recipe: ClassificationRecipe, console: Console) -> Plan:
    """What to learn from, what learns, and how it is judged.

    Raises:
        TransXNetError: If the data, the checkpoint or a setting cannot be used.
    """
    data = open_data(recipe.data, recipe.seed)
    model = build_model(recipe, data.train.class_names)
    images = len(data.train.targets)
    bad = BadImages(images + len(data.validation.targets), recipe.max_bad)
    return Plan(
        ClassificationTask(model, recipe, bad),
        images,
        data.train.name,
        loaders=partial(_loaders, recipe, model, data),
        judge=partial(_judge, recipe, model, data.validation),
    )


def _loaders(
    recipe: ClassificationRecipe, model: TransXNet, data: LabelledData, run: Run
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


def _judge(
    recipe: ClassificationRecipe, model: TransXNet, validation: ImageSource, run: Run, folder: RunFolder
) -> tuple[str, dict[str, Any]]:
    outputs = run_network(model, validation, batch_size=recipe.batch_size, workers=recipe.workers, device=run.device)
    judged = evaluate(outputs)
    _save_pictures(model, validation, outputs, judged, run.history, folder)
    right = round(judged.top1 * judged.images)
    top5 = f", top-5 {judged.top5:.2%}" if judged.top5 is not None else ""
    headline = f"test accuracy {judged.top1:.2%} ({right} of {judged.images} held-out images){top5}"
    scores = {"top1": judged.top1, "top5": judged.top5, "validation_images": judged.images}
    return headline, scores


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
        Prediction(
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
