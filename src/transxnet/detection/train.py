"""What a detection run is made of, and how it is judged."""

from __future__ import annotations

from functools import partial
from typing import Any

from rich.console import Console

from transxnet.checkpoints.reading import read_checkpoint
from transxnet.data.coco import CocoSource, InstanceData, open_coco
from transxnet.data.loader import BadImages, ResumableLoader, make_loader
from transxnet.data.scenes import data_folder
from transxnet.dense.create import create_dense
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.protocol import Detector
from transxnet.dense.registry import network_class
from transxnet.detection.batches import EvaluationImages, TrainingImages, collate
from transxnet.detection.evaluate import Evaluation, evaluate
from transxnet.detection.recipe import DetectionRecipe
from transxnet.detection.sample_sheet import save_sheet
from transxnet.detection.task import DetectionTask
from transxnet.errors import DataError
from transxnet.plotting.run_figures import save_curves
from transxnet.training.dense import known_classes, label_names_of, tell_findings
from transxnet.training.run_folder import RunFolder
from transxnet.training.running import Plan, Run


def plan(recipe: DetectionRecipe, console: Console) -> Plan:
    """What to learn from, what learns, and how it is judged.

    Raises:
        TransXNetError: If the data, the checkpoint or a setting cannot be used.
    """
    data = open_coco(data_folder(recipe.data), seed=recipe.seed, masks=recipe.predicts_masks)
    tell_findings(console, data.train, data.validation)
    train = _learned(data, recipe)
    model = build_model(recipe, train)
    bad = BadImages(len(train) + len(data.validation), recipe.max_bad)
    return Plan(
        DetectionTask(model, recipe, bad, data.validation),
        len(train),
        train.name,
        loaders=partial(_loaders, recipe, model, train, data.validation),
        judge=partial(_judge, recipe, model, data.validation),
    )


def build_model(recipe: DetectionRecipe, train: CocoSource) -> Detector:
    """The recipe's detector for these classes, with the start it asks for.

    Layers that were trained for other classes are drawn anew.
    """
    head = HeadDescription(
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
    assert isinstance(model, Detector)
    model.sample_regions(recipe.regions)
    return model


def _learned(data: InstanceData, recipe: DetectionRecipe) -> CocoSource:
    if data.train is None:
        raise DataError(f"{recipe.data} holds nothing to learn from: there are only annotations to judge by")
    if recipe.predicts_masks and not data.train.has_masks:
        title = network_class(recipe.detector).title
        raise DataError(f"{recipe.data} has objects without a mask, which {title} needs; take --detector retinanet")
    return data.train.trainable()


def _loaders(
    recipe: DetectionRecipe, model: Detector, train: CocoSource, validation: CocoSource, run: Run
) -> tuple[ResumableLoader, ResumableLoader]:
    masks = recipe.predicts_masks
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


def _judge(
    recipe: DetectionRecipe, model: Detector, validation: CocoSource, run: Run, folder: RunFolder
) -> tuple[str, dict[str, Any]]:
    judged = evaluate(model, validation, workers=recipe.workers, device=run.device)
    name = f"{recipe.detector} with {recipe.backbone}"
    headline = headline_of(judged)
    save_sheet(model, validation, folder.samples, f"{name}: {headline}")
    kind = "mask" if judged.mask else "box"
    score = (f"val/{kind}_AP50", f"{kind} AP50")
    save_curves(run.history.epochs, folder.curves, f"{name}: {headline}", loss="sum of the losses", score=score)
    scores: dict[str, Any] = {"box": judged.box.scores, "validation_images": judged.images}
    if judged.mask:
        scores["mask"] = judged.mask.scores
    return headline, scores


def headline_of(judged: Evaluation) -> str:
    """The precision in a line."""
    box, mask = judged.box.scores, judged.mask and judged.mask.scores
    masks = f", mask AP {mask['AP']:.1%} (AP50 {mask['AP50']:.1%})" if mask else ""
    return f"box AP {box['AP']:.1%} (AP50 {box['AP50']:.1%}){masks} on {judged.images} held-out images"
