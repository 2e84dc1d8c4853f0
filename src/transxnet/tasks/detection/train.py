"""A detection run from the recipe to the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything
from rich.console import Console

from transxnet.checkpoints.reading import read_checkpoint
from transxnet.checkpoints.writing import save_model
from transxnet.data.coco import CocoSource, InstanceData, open_coco
from transxnet.data.loading import BadImages, ResumableLoader, make_loader
from transxnet.data.scenes import scenes_folder
from transxnet.data.sources import SCENES
from transxnet.dense.create import Detector, create_dense
from transxnet.dense.detection.mask_rcnn import MaskRCNN
from transxnet.dense.head import Head
from transxnet.dense.semantic_fpn import SemanticFPN
from transxnet.errors import DataError
from transxnet.files import cache_folder
from transxnet.tasks.dense import known_classes, label_names_of, tell_findings
from transxnet.tasks.detection.evaluate import Evaluation, evaluate
from transxnet.tasks.detection.images import EvaluationImages, TrainingImages, collate
from transxnet.tasks.detection.pictures import save_sheet
from transxnet.tasks.detection.recipe import DetectionRecipe
from transxnet.tasks.detection.task import DetectionTask
from transxnet.training.engine import out_of_memory_explained, quiet_lightning
from transxnet.training.figures import save_curves
from transxnet.training.run_folder import RunFolder
from transxnet.training.running import Run, TrainingResult, finish, fit, prepare


def train_detector(
    recipe: DetectionRecipe, folder: RunFolder, console: Console, *, resume: Path | None = None, profile: bool = False
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
    data = open_instances(recipe.data, recipe.seed, masks=recipe.detector == "mask_rcnn")
    tell_findings(console, data.train, data.validation)
    train = _learned(data, recipe)
    model = build_model(recipe, train)
    bad = BadImages(len(train) + len(data.validation), recipe.max_bad)
    with quiet_lightning(), out_of_memory_explained(recipe):
        task = DetectionTask(model, recipe, bad, data.validation)
        run = prepare(recipe, task, train.name, folder, console, profile=profile, resume=resume)
        if not fit(run, *_loaders(run, recipe, model, train, data.validation), folder, console, resume):
            return None
    return _finish(run, recipe, model, data.validation, len(train), folder)


def open_instances(data: str, seed: int, *, masks: bool) -> InstanceData:
    """The embedded scenes, or a folder of the user's, with masks or without."""
    return open_coco(str(scenes_folder(cache_folder())) if data == SCENES else data, seed=seed, masks=masks)


def build_model(recipe: DetectionRecipe, train: CocoSource) -> Detector:
    """The recipe's detector for these classes, with the start it asks for.

    Layers that were trained for other classes are drawn anew.
    """
    head = Head(
        recipe.detector,
        len(train.class_names),
        recipe.pyramid_channels,
        recipe.normalised_heads,
        train.class_names,
        train.category_ids,
        proposals=recipe.proposals,
        short=recipe.short,
        long=recipe.long,
    )
    head = known_classes(head)  # its colours
    settings = recipe.settings_of_backbone()
    start = read_checkpoint(recipe.checkpoint) if recipe.checkpoint else None
    other = start is not None and label_names_of(start) != train.class_names
    model = create_dense(head, recipe.backbone, start, recipe.backbone_source(), new_classes=other, **settings)
    assert not isinstance(model, SemanticFPN)
    if isinstance(model, MaskRCNN):
        model.roi_heads.fg_bg_sampler.batch_size_per_image = recipe.regions
    return model


def _learned(data: InstanceData, recipe: DetectionRecipe) -> CocoSource:
    if data.train is None:
        raise DataError(f"{recipe.data} holds nothing to learn from: there are only annotations to judge by")
    if recipe.detector == "mask_rcnn" and not data.train.has_masks:
        raise DataError(f"{recipe.data} has objects without a mask, which Mask R-CNN needs; take --detector retinanet")
    return data.train.trainable()


def _loaders(
    run: Run, recipe: DetectionRecipe, model: Detector, train: CocoSource, validation: CocoSource
) -> tuple[ResumableLoader, ResumableLoader]:
    masks = recipe.detector == "mask_rcnn"
    images = TrainingImages(train, model.transform, recipe.augmentation, masks=masks, seed=recipe.seed)
    settings: dict[str, Any] = {
        "train": True,
        "seed": recipe.seed,
        "batches_per_step": recipe.accumulate,
        "epoch_steps": recipe.epoch_steps,
        "groups": train.landscape if recipe.same_aspect else None,
    }
    return (
        make_loader(images, recipe.batch_size, collate=collate, **settings, **run.place),
        make_loader(EvaluationImages(validation), 1, collate=collate, **run.place),
    )


def _finish(
    run: Run, recipe: DetectionRecipe, model: Detector, validation: CocoSource, images: int, folder: RunFolder
) -> TrainingResult:
    save_model(model, folder.weights)
    device = str(run.trainer.strategy.root_device)
    judged = evaluate(model, validation, workers=recipe.workers, device=device)
    name = f"{recipe.detector} with {recipe.backbone}"
    headline = headline_of(judged)
    save_sheet(model, validation, folder.samples, f"{name}: {headline}")
    kind = "mask" if judged.mask else "box"
    score = (f"val/{kind}_AP50", f"{kind} AP50")
    save_curves(run.history.epochs, folder.curves, f"{name}: {headline}", loss="sum of the losses", score=score)
    scores = {"box": judged.box.scores, "validation_images": judged.images}
    if judged.mask:
        scores["mask"] = judged.mask.scores
    return finish(run, folder, headline, scores, images)


def headline_of(judged: Evaluation) -> str:
    """The precision in a line."""
    box, mask = judged.box.scores, judged.mask and judged.mask.scores
    masks = f", mask AP {mask['AP']:.1%} (AP50 {mask['AP50']:.1%})" if mask else ""
    return f"box AP {box['AP']:.1%} (AP50 {box['AP50']:.1%}){masks} on {judged.images} held-out images"
