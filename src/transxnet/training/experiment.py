"""The interface between a training run and a task (classification, detection, segmentation)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from torch import nn

from transxnet.data.description import DataDescription
from transxnet.data.fingerprint import Adopt, DividedData
from transxnet.data.loader import AddressedImages, ResumableLoader, make_loader
from transxnet.training.processes import Process
from transxnet.training.recipe import Recipe
from transxnet.training.run_folder import RunFolder
from transxnet.training.task import Task

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
AnyData = TypeVar("AnyData", bound=DividedData)
AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)
AnyEvaluation = TypeVar("AnyEvaluation")

Loaders = tuple[ResumableLoader, ResumableLoader]


class Experiment(ABC, Generic[AnyRecipe, AnyData, AnyNetwork, AnyEvaluation]):
    """Data set, network, task, loaders and evaluation for a recipe.

    Each slice has one subclass; :func:`transxnet.training.run.train` calls its methods in the order in
    which they are listed here. The loaders are not a Lightning data module's, which makes them after
    training has begun: a mistake in the data or the batch size is found before anything is written.

    Args:
        recipe: The settings.
        adopt: Called with the data set that was opened; returns the one to use, such as with the held-out
            images of the run that is resumed.

    Attributes:
        data: The data set.

    Raises:
        TransXNetError: If the data cannot be used.
    """

    def __init__(self, recipe: AnyRecipe, adopt: Adopt = lambda data: data) -> None:
        self.recipe = recipe
        self.data: AnyData = adopt(self.open_data())

    @property
    def description(self) -> DataDescription:
        """Description of the data set."""
        return self.data.description()

    @abstractmethod
    def open_data(self) -> AnyData:
        """Open the recipe's data set.

        Raises:
            TransXNetError: If it cannot be used.
        """

    @property
    @abstractmethod
    def training_images(self) -> int:
        """Number of training images."""

    @abstractmethod
    def image_name(self, index: int) -> str:
        """Name of a training image, for messages."""

    @abstractmethod
    def build_network(self) -> AnyNetwork:
        """Create the recipe's network for the data's classes, with the weights to start from.

        Raises:
            TransXNetError: If the checkpoint or a setting cannot be used.
        """

    @abstractmethod
    def build_task(self, network: AnyNetwork) -> Task:
        """Create loss, metrics and optimizer around the network."""

    @abstractmethod
    def loaders(self, network: AnyNetwork, process: Process) -> Loaders:
        """Create one process's loaders of training and validation images.

        Raises:
            ConfigError: If there are fewer images than a step takes.
        """

    @abstractmethod
    def evaluate(self, network: AnyNetwork, device: str) -> AnyEvaluation:
        """Evaluate the trained network on the validation images."""

    @abstractmethod
    def headline(self, evaluation: AnyEvaluation) -> str:
        """Describe an evaluation in one line."""

    @abstractmethod
    def scores(self, evaluation: AnyEvaluation) -> dict[str, Any]:
        """Scores of an evaluation as plain values, for ``summary.json``."""

    @abstractmethod
    def draw(
        self, network: AnyNetwork, evaluation: AnyEvaluation, epochs: Sequence[dict[str, float]], folder: RunFolder
    ) -> None:
        """Write ``samples.png`` and ``curves.png``.

        Args:
            network: The trained network.
            evaluation: Its evaluation.
            epochs: Metrics of each epoch.
            folder: The run folder.
        """

    def training_loader(self, images: AddressedImages, process: Process, **settings: Any) -> ResumableLoader:
        """Loader of training images in the order that seed and epoch decide; ``settings`` as of ``make_loader``."""
        recipe = self.recipe
        return make_loader(
            images,
            recipe.batch_size,
            train=True,
            seed=recipe.seed,
            batches_per_step=recipe.accumulate,
            workers=recipe.workers,
            **process._asdict(),
            **settings,
        )

    def validation_loader(
        self, images: AddressedImages, batch_size: int, process: Process, **settings: Any
    ) -> ResumableLoader:
        """Loader of validation images, in order; ``settings`` as of ``make_loader``."""
        return make_loader(images, batch_size, workers=self.recipe.workers, **process._asdict(), **settings)
