"""What a segmentation run is made of, and how it is judged."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console

from transxnet.checkpoints.reading import read_checkpoint
from transxnet.data.loader import BadImages, ResumableLoader, make_loader
from transxnet.data.scenes import data_folder
from transxnet.data.segmentation import SegmentationSource, open_segmentation
from transxnet.dense.create import create_dense
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.protocol import Segmenter
from transxnet.errors import DataError
from transxnet.plotting.run_figures import save_curves
from transxnet.segmentation.batches import EvaluationImages, TrainingImages, collate
from transxnet.segmentation.evaluate import Evaluation, evaluate
from transxnet.segmentation.recipe import SegmentationRecipe
from transxnet.segmentation.sample_sheet import save_sheet
from transxnet.segmentation.task import SegmentationTask
from transxnet.training.dense import label_names_of, tell_findings
from transxnet.training.run_folder import RunFolder
from transxnet.training.running import Plan, Run


def plan(recipe: SegmentationRecipe, console: Console) -> Plan:
    """What to learn from, what learns, and how it is judged.

    Raises:
        TransXNetError: If the data, the checkpoint or a setting cannot be used.
    """
    data = open_segmentation(data_folder(recipe.data), reduce_zero_label=recipe.reduce_zero_label, seed=recipe.seed)
    tell_findings(console, data.train, data.validation)
    if data.train is None:
        raise DataError(f"{recipe.data} holds nothing to learn from: there are only images to judge by")
    model = build_model(recipe, data.train)
    bad = BadImages(len(data.train) + len(data.validation), recipe.max_bad)
    return Plan(
        SegmentationTask(model, recipe, bad),
        len(data.train),
        data.train.name,
        loaders=partial(_loaders, recipe, model, data.train, data.validation),
        judge=partial(_judge, recipe, model, data.validation),
    )


def build_model(recipe: SegmentationRecipe, train: SegmentationSource) -> Segmenter:
    """The recipe's segmenter for these classes, with the start it asks for.

    A layer that was trained for other classes is drawn anew.
    """
    head = HeadDescription(
        recipe.segmenter,
        len(train.class_names),
        recipe.pyramid_channels,
        recipe.normalised_heads,
        train.class_names,
        colors=tuple((red, green, blue) for red, green, blue in train.colors.tolist()),
        short=recipe.augmentation.short,
        long=recipe.augmentation.long,
        reduce_zero_label=recipe.reduce_zero_label,
    )
    settings = recipe.settings_of_backbone()
    start = read_checkpoint(recipe.checkpoint) if recipe.checkpoint else None
    other = start is not None and label_names_of(start) != train.class_names
    model = create_dense(head, recipe.backbone, start, recipe.backbone_source(), new_classes=other, **settings)
    assert isinstance(model, Segmenter)
    return model


def _loaders(
    recipe: SegmentationRecipe, model: Segmenter, train: SegmentationSource, validation: SegmentationSource, run: Run
) -> tuple[ResumableLoader, ResumableLoader]:
    settings: dict[str, Any] = {
        "train": True,
        "seed": recipe.seed,
        "batches_per_step": recipe.accumulate,
        "epoch_steps": recipe.epoch_steps,
    }
    transform = model.head_description.transform
    images = TrainingImages(train, recipe.augmentation, transform, seed=recipe.seed)
    judged = EvaluationImages(validation, transform)
    return (
        make_loader(images, recipe.batch_size, collate=collate, **settings, **run.place),
        make_loader(judged, 1, collate=collate, **run.place),
    )


def _judge(
    recipe: SegmentationRecipe, model: Segmenter, validation: SegmentationSource, run: Run, folder: RunFolder
) -> tuple[str, dict[str, Any]]:
    judged = evaluate(model, validation, workers=recipe.workers, device=run.device)
    headline = headline_of(judged)
    title = f"{recipe.subject}: {headline}"
    save_sheet(model, validation, folder.samples, title)
    save_curves(run.history.epochs, folder.curves, title, loss="cross entropy", score=("val/mIoU", "mIoU"))
    scores = {"mIoU": judged.agreement.miou, "mAcc": judged.agreement.macc, "aAcc": judged.agreement.aacc}
    return headline, {**scores, "validation_images": judged.images}


def headline_of(judged: Evaluation) -> str:
    """The agreement in a line."""
    found = judged.agreement
    return f"mIoU {found.miou:.1%}, mAcc {found.macc:.1%}, aAcc {found.aacc:.1%} on {judged.images} held-out images"
