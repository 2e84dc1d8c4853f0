"""A classification run: data set, network, task, loaders and evaluation for a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transxnet.classification.evaluate import Evaluation, evaluate
from transxnet.classification.labels import label_names
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.classification.sample_sheet import save_sheet
from transxnet.classification.task import ClassificationTask
from transxnet.data.fingerprint import Adopt
from transxnet.data.loader import BadImages, LabelledImages
from transxnet.data.names import same_names
from transxnet.data.sources import LabelledData, open_data
from transxnet.data.transforms import evaluation_transform, training_transform
from transxnet.model import TransXNet
from transxnet.plotting.run_figures import save_curves
from transxnet.text import counted
from transxnet.training.experiment import Experiment, Loaders
from transxnet.training.processes import Process
from transxnet.training.recipe import RELEASED_CHECKPOINT, uses_gpu
from transxnet.training.run_folder import RunFolder
from transxnet.zoo import create_model, load_model


class ClassificationExperiment(Experiment[ClassificationRecipe, LabelledData, TransXNet, Evaluation]):
    """Labelled images, a classifier, cross entropy, and top-1 accuracy; see :class:`Experiment`."""

    def __init__(self, recipe: ClassificationRecipe, adopt: Adopt = lambda data: data) -> None:
        super().__init__(recipe, adopt)
        self.train, self.validation = self.data.train, self.data.validation

    def open_data(self) -> LabelledData:
        return open_data(self.recipe.data, self.recipe.seed)

    @property
    def training_images(self) -> int:
        return len(self.train.targets)

    def image_name(self, index: int) -> str:
        return self.train.name(index)

    def build_network(self) -> TransXNet:
        return build_network(self.recipe, self.train.class_names)

    def build_task(self, network: TransXNet) -> ClassificationTask:
        bad = BadImages(len(self.train.targets) + len(self.validation.targets), self.recipe.max_bad)
        return ClassificationTask(network, self.recipe, bad)

    def loaders(self, network: TransXNet, process: Process) -> Loaders:
        recipe, preprocessing = self.recipe, vars(network)["pretrained_cfg"]
        on_cpu = not uses_gpu(recipe)  # a GPU is sent bytes, a quarter of the size, and normalises them
        augmented = training_transform(preprocessing, recipe.augmentation, normalise=on_cpu)
        training = LabelledImages(self.train, augmented, seed=recipe.seed, replace_bad=True)
        validation = LabelledImages(self.validation, evaluation_transform(preprocessing, normalise=on_cpu))
        return (
            self.training_loader(training, process),
            self.validation_loader(validation, recipe.batch_size, process),
        )

    def evaluate(self, network: TransXNet, device: str) -> Evaluation:
        recipe = self.recipe
        return evaluate(
            network, self.validation, batch_size=recipe.batch_size, workers=recipe.workers, max_bad=1.0, device=device
        )

    def headline(self, evaluation: Evaluation) -> str:
        right = round(evaluation.top1 * evaluation.images)
        top5 = f", top-5 {evaluation.top5:.2%}" if evaluation.top5 is not None else ""
        return f"test accuracy {evaluation.top1:.2%} ({right} of {counted(evaluation.images, 'held-out image')}){top5}"

    def scores(self, evaluation: Evaluation) -> dict[str, Any]:
        return {"top1": evaluation.top1, "top5": evaluation.top5, "validation_images": evaluation.images}

    def draw(
        self, network: TransXNet, evaluation: Evaluation, epochs: Sequence[dict[str, float]], folder: RunFolder
    ) -> None:
        name = vars(network)["pretrained_cfg"].get("architecture", "TransXNet")
        title = f"{name}: {evaluation.top1:.1%} of {counted(evaluation.images, 'held-out image')} right"
        save_sheet(network, self.validation, evaluation.outputs, folder.samples, title)
        save_curves(epochs, folder.curves, title, loss="cross entropy", score=("val/top1", "validation top-1"))


def build_network(recipe: ClassificationRecipe, class_names: Sequence[str]) -> TransXNet:
    """Create the recipe's network for these classes, with the weights to start from.

    The classifier of a checkpoint that was trained for other classes is replaced by a new one.
    """
    settings = recipe.model_settings | {"num_classes": len(class_names), "drop_path_rate": recipe.drop_path}
    if recipe.image_size is not None:
        settings["img_size"] = recipe.image_size
    if recipe.model is None:
        network = load_model(recipe.checkpoint or "", **settings)
    elif recipe.checkpoint == RELEASED_CHECKPOINT:
        network = create_model(recipe.model, pretrained=True, **settings)
    else:
        network = create_model(recipe.model, checkpoint=recipe.checkpoint, **settings)
    if recipe.checkpoint and not same_names(label_names(network), class_names):
        network.reset_classifier(len(class_names))
    preprocessing = vars(network)["pretrained_cfg"]
    size = (recipe.image_size,) * 2 if recipe.image_size else network.config.img_size
    preprocessing |= {
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "input_size": (network.in_chans, *size),
        "crop_pct": recipe.eval_crop,
    }
    return network
