"""A segmentation run: data set, network, task, loaders and evaluation for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transxnet.checkpoints.reading import read_checkpoint
from transxnet.data.fingerprint import Adopt
from transxnet.data.known_classes import label_names_of
from transxnet.data.loader import BadImages
from transxnet.data.masks.opening import SegmentationData, SegmentationSource, open_segmentation
from transxnet.data.names import same_names
from transxnet.data.scenes import data_folder
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
from transxnet.text import counted
from transxnet.training.experiment import Experiment, Loaders
from transxnet.training.processes import Process
from transxnet.training.run_folder import RunFolder


class SegmentationExperiment(Experiment[SegmentationRecipe, SegmentationData, Segmenter, Evaluation]):
    """Images with a class for every pixel, a segmenter, cross entropy, and mIoU; see :class:`Experiment`."""

    def __init__(self, recipe: SegmentationRecipe, adopt: Adopt = lambda data: data) -> None:
        super().__init__(recipe, adopt)
        data = self.data
        if data.train is None:
            raise DataError(f"{recipe.data} has validation images but no training images")
        _check_labelled(recipe, data)
        self.train, self.validation = data.train, data.validation

    def open_data(self) -> SegmentationData:
        recipe = self.recipe
        return open_segmentation(data_folder(recipe.data), reduce_zero_label=recipe.reduce_zero_label, seed=recipe.seed)

    @property
    def training_images(self) -> int:
        return len(self.train)

    def image_name(self, index: int) -> str:
        return self.train.name(index)

    def build_network(self) -> Segmenter:
        return build_network(self.recipe, self.train)

    def build_task(self, network: Segmenter) -> SegmentationTask:
        bad = BadImages(len(self.train) + len(self.validation), self.recipe.max_bad)
        return SegmentationTask(network, self.recipe, bad)

    def loaders(self, network: Segmenter, process: Process) -> Loaders:
        recipe, transform = self.recipe, network.head_description.transform
        training = TrainingImages(self.train, recipe.augmentation, transform, seed=recipe.seed)
        validation = EvaluationImages(self.validation, transform)
        return (
            self.training_loader(training, process, collate=collate, epoch_steps=recipe.epoch_steps),
            self.validation_loader(validation, 1, process, collate=collate),
        )

    def evaluate(self, network: Segmenter, device: str) -> Evaluation:
        return evaluate(network, self.validation, workers=self.recipe.workers, device=device)

    def headline(self, evaluation: Evaluation) -> str:
        found = evaluation.agreement
        shares = f"mIoU {found.miou:.1%}, mAcc {found.macc:.1%}, aAcc {found.aacc:.1%}"
        return f"{shares} on {counted(evaluation.images, 'held-out image')}"

    def scores(self, evaluation: Evaluation) -> dict[str, Any]:
        found = evaluation.agreement
        shares = {"mIoU": found.miou, "mAcc": found.macc, "aAcc": found.aacc}
        return {**shares, "validation_images": evaluation.images}

    def draw(
        self, network: Segmenter, evaluation: Evaluation, epochs: Sequence[dict[str, float]], folder: RunFolder
    ) -> None:
        title = f"{self.recipe.subject}: {self.headline(evaluation)}"
        save_sheet(network, self.validation, folder.samples, title)
        save_curves(epochs, folder.curves, title, loss="cross entropy", score=("val/mIoU", "mIoU"))


def _check_labelled(recipe: SegmentationRecipe, data: SegmentationData) -> None:
    """Raise DataError if the images have nothing to learn or nothing to evaluate on."""
    names = data.validation.class_names
    if len(names) == 1:
        raise DataError(f"{recipe.data} has a single class, {names[0]}: there is nothing to distinguish")
    for part, source in (("training", data.train), ("validation", data.validation)):
        if source is not None and not source.pixels.any():
            raise DataError(f"no pixel of the {part} images of {recipe.data} is labelled with a class")


def build_network(recipe: SegmentationRecipe, train: SegmentationSource) -> Segmenter:
    """Create the recipe's segmenter for these classes, with the weights to start from.

    Layers of a checkpoint that were trained for other classes are initialised anew.
    """
    reduced = recipe.reduce_zero_label and train.ignores_zero
    usual = tuple(range(reduced, len(train.class_names) + reduced))
    head = HeadDescription(
        recipe.segmenter,
        len(train.class_names),
        recipe.pyramid_channels,
        recipe.normalised_heads,
        train.class_names,
        colors=tuple((red, green, blue) for red, green, blue in train.colors.tolist()),
        short=recipe.augmentation.short,
        long=recipe.augmentation.long,
        reduce_zero_label=reduced,
        label_values=() if train.label_values == usual else train.label_values,
    )
    settings = recipe.settings_of_backbone()
    start = read_checkpoint(recipe.checkpoint) if recipe.checkpoint else None
    other = start is not None and not same_names(label_names_of(start), train.class_names)
    network = create_dense(head, recipe.backbone, start, recipe.backbone_source(), new_classes=other, **settings)
    assert isinstance(network, Segmenter)
    return network
