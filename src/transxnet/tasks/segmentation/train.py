"""A segmentation run from the recipe to the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from rich.console import Console

from transxnet.checkpoints.reading import read_checkpoint
from transxnet.checkpoints.writing import save_model
from transxnet.data.loading import BadImages, ResumableLoader, make_loader
from transxnet.data.scenes import scenes_folder
from transxnet.data.segmentation import SegmentationData, SegmentationSource, open_segmentation
from transxnet.data.sources import SCENES
from transxnet.dense.create import create_dense
from transxnet.dense.head import Head
from transxnet.dense.semantic_fpn import SemanticFPN
from transxnet.errors import DataError
from transxnet.files import cache_folder
from transxnet.tasks.dense import label_names_of, tell_findings
from transxnet.tasks.segmentation.evaluate import Evaluation, evaluate
from transxnet.tasks.segmentation.images import EvaluationImages, TrainingImages, collate
from transxnet.tasks.segmentation.pictures import save_sheet
from transxnet.tasks.segmentation.recipe import SegmentationRecipe
from transxnet.tasks.segmentation.task import SegmentationTask
from transxnet.training.engine import out_of_memory_explained, quiet_lightning
from transxnet.training.figures import save_curves
from transxnet.training.run_folder import RunFolder
from transxnet.training.running import Run, TrainingResult, finish, fit, prepare


def train_segmenter(
    recipe: SegmentationRecipe,
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
    data = open_labels(recipe.data, recipe.seed, recipe.reduce_zero_label)
    tell_findings(console, data.train, data.validation)
    if data.train is None:
        raise DataError(f"{recipe.data} holds nothing to learn from: there are only images to judge by")
    model = build_model(recipe, data.train)
    bad = BadImages(len(data.train) + len(data.validation), recipe.max_bad)
    with quiet_lightning(), out_of_memory_explained(recipe):
        task = SegmentationTask(model, recipe, bad)
        run = prepare(recipe, task, data.train.name, folder, console, profile=profile, resume=resume)
        if not fit(run, *_loaders(run, recipe, data.train, data.validation), folder, console, resume):
            return None
    return _finish(run, recipe, model, data.validation, len(data.train), folder)


def open_labels(data: str, seed: int, reduce_zero_label: bool) -> SegmentationData:
    """The embedded scenes, or a folder of the user's."""
    root = str(scenes_folder(cache_folder())) if data == SCENES else data
    return open_segmentation(root, reduce_zero_label=reduce_zero_label, seed=seed)


def build_model(recipe: SegmentationRecipe, train: SegmentationSource) -> SemanticFPN:
    """The recipe's segmenter for these classes, with the start it asks for.

    A layer that was trained for other classes is drawn anew.
    """
    head = Head(
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
    assert isinstance(model, SemanticFPN)
    return model


def _loaders(
    run: Run, recipe: SegmentationRecipe, train: SegmentationSource, validation: SegmentationSource
) -> tuple[ResumableLoader, ResumableLoader]:
    settings: dict[str, Any] = {
        "train": True,
        "seed": recipe.seed,
        "batches_per_step": recipe.accumulate,
        "epoch_steps": recipe.epoch_steps,
    }
    images = TrainingImages(train, recipe.augmentation, seed=recipe.seed)
    judged = EvaluationImages(validation, recipe.augmentation.long, recipe.augmentation.short)
    return (
        make_loader(images, recipe.batch_size, collate=collate, **settings, **run.place),
        make_loader(judged, 1, collate=collate, **run.place),
    )


def _finish(
    run: Run,
    recipe: SegmentationRecipe,
    model: SemanticFPN,
    validation: SegmentationSource,
    images: int,
    folder: RunFolder,
) -> TrainingResult:
    save_model(model, folder.weights)
    device = str(run.trainer.strategy.root_device)
    judged = evaluate(model, validation, workers=recipe.workers, device=device)
    headline = headline_of(judged)
    title = f"{recipe.subject}: {headline}"
    save_sheet(model, validation, folder.samples, title)
    save_curves(run.history.epochs, folder.curves, title, loss="cross entropy", score=("val/mIoU", "mIoU"))
    scores = {"mIoU": judged.agreement.miou, "mAcc": judged.agreement.macc, "aAcc": judged.agreement.aacc}
    return finish(run, folder, headline, {**scores, "validation_images": judged.images}, images)


def headline_of(judged: Evaluation) -> str:
    """The agreement in a line."""
    found = judged.agreement
    return f"mIoU {found.miou:.1%}, mAcc {found.macc:.1%}, aAcc {found.aacc:.1%} on {judged.images} held-out images"
