"""A detection run: data set, network, task, loaders and evaluation for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transxnet.checkpoints.reading import read_checkpoint
from transxnet.data.coco.opening import CocoData, CocoSource, open_coco
from transxnet.data.fingerprint import Adopt
from transxnet.data.known_classes import known_classes, label_names_of
from transxnet.data.loader import BadImages
from transxnet.data.names import same_names
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
from transxnet.text import percent
from transxnet.training.experiment import Experiment, Loaders
from transxnet.training.processes import Process
from transxnet.training.run_folder import RunFolder


class DetectionExperiment(Experiment[DetectionRecipe, CocoData, Detector, Evaluation]):
    """Images with boxes (and masks), a detector, its losses, and COCO's average precision; see :class:`Experiment`."""

    def __init__(self, recipe: DetectionRecipe, adopt: Adopt = lambda data: data) -> None:
        super().__init__(recipe, adopt)
        self.masks, data = recipe.predicts_masks, self.data
        if data.train is None:
            raise DataError(f"{recipe.data} has validation images but no training images")
        if self.masks:
            _check_masks(data.train, recipe)
        self.train, self.validation = data.train.trainable(), data.validation

    def open_data(self) -> CocoData:
        recipe = self.recipe
        return open_coco(data_folder(recipe.data), seed=recipe.seed, masks=recipe.predicts_masks, crowds=recipe.crowds)

    @property
    def training_images(self) -> int:
        return len(self.train)

    def image_name(self, index: int) -> str:
        return self.train.name(index)

    def build_network(self) -> Detector:
        return build_network(self.recipe, self.train)

    def build_task(self, network: Detector) -> DetectionTask:
        bad = BadImages(len(self.train) + len(self.validation), self.recipe.max_bad)
        return DetectionTask(network, self.recipe, bad, self.validation)

    def loaders(self, network: Detector, process: Process) -> Loaders:
        recipe = self.recipe
        training = TrainingImages(
            self.train, network.transform, recipe.augmentation, masks=self.masks, seed=recipe.seed
        )
        groups = self.train.landscape if recipe.same_aspect else None
        return (
            self.training_loader(training, process, collate=collate, epoch_steps=recipe.epoch_steps, groups=groups),
            self.validation_loader(EvaluationImages(self.validation), 1, process, collate=collate),
        )

    def evaluate(self, network: Detector, device: str) -> Evaluation:
        return evaluate(network, self.validation, workers=self.recipe.workers, device=device)

    def headline(self, evaluation: Evaluation) -> str:
        box, mask = evaluation.box.scores, evaluation.mask and evaluation.mask.scores
        masks = f", mask AP {percent(mask['AP'])} (AP50 {percent(mask['AP50'])})" if mask else ""
        boxes = f"box AP {percent(box['AP'])} (AP50 {percent(box['AP50'])})"
        return f"{boxes}{masks} on {evaluation.images} held-out images"

    def scores(self, evaluation: Evaluation) -> dict[str, Any]:
        scores: dict[str, Any] = {"box": evaluation.box.scores, "validation_images": evaluation.images}
        return scores | ({"mask": evaluation.mask.scores} if evaluation.mask else {})

    def draw(
        self, network: Detector, evaluation: Evaluation, epochs: Sequence[dict[str, float]], folder: RunFolder
    ) -> None:
        title = f"{self.recipe.subject}: {self.headline(evaluation)}"
        save_sheet(network, self.validation, folder.samples, title)
        kind = "mask" if evaluation.mask else "box"
        score = (f"val/{kind}_AP50", f"{kind} AP50")
        save_curves(epochs, folder.curves, title, loss="sum of the losses", score=score)


def _check_masks(train: CocoSource, recipe: DetectionRecipe) -> None:
    """Refuse objects without a mask, unless they may be left out of the masks' loss and others have one."""
    bare = train.without_mask
    objects = int((~train.annotations.crowds).sum())
    if not bare or (recipe.without_mask == "boxes-only" and len(bare) < objects):
        return
    row = bare[0]
    name = f"annotation {train.annotations.ids[row]} of {train.images[train.owner(row)].file_name}"
    title = network_class(recipe.detector).title
    others = ", or --without-mask boxes-only, which trains their boxes alone" if len(bare) < objects else ""
    raise DataError(
        f"{recipe.data} has objects without a mask, which {title} needs: {len(bare):,} of {objects:,}, such as {name}; "
        f"take --detector retinanet{others}"
    )


def build_network(recipe: DetectionRecipe, train: CocoSource) -> Detector:
    """Create the recipe's detector for these classes, with the weights to start from.

    Layers of a checkpoint that were trained for other classes are initialised anew.
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
    other = start is not None and not same_names(label_names_of(start), train.class_names)
    network = create_dense(head, recipe.backbone, start, recipe.backbone_source(), new_classes=other, **settings)
    assert isinstance(network, Detector)
    network.sample_regions(recipe.regions)
    return network
