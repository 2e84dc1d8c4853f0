"""The form in which a dense network is exported: tensors in, tensors out, and what other code makes of them."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor, nn

from transxnet.bounds import shown
from transxnet.errors import ConfigError

if TYPE_CHECKING:
    from transxnet.dense.head_description import HeadDescription

Shape = tuple[int | None, ...]
"""Sizes of a tensor, None for those that are not fixed."""


class InputSize(NamedTuple):
    """Size of a batch of images, height and width in pixels."""

    batch: int
    height: int
    width: int


@dataclass(frozen=True)
class PartFile:
    """A head of a second stage, which is exported to a file of its own.

    Attributes:
        side: Height and width of the pooled regions (R, C, side, side) that it takes.
        shapes: From a number of classes to its outputs' names and shapes, in order.
    """

    side: int
    shapes: Callable[[int], dict[str, Shape]]


class ExportedFiles(Protocol):
    """An exported network's files, as a runtime runs them."""

    @property
    def parts(self) -> Mapping[str, ExportedFiles]:
        """The files beside the first, by the names of their parts."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs by name, in order, of images (B, C, H, W), normalised; of a part, of regions."""


class ExportForm(ABC):
    """How the networks of a class are exported.

    What of a network is the same for every image is traced and written; what is not (proposals, NMS) stays in
    Python, in :meth:`decoder`.

    Attributes:
        parts: Parts of the network with a file of their own beside the first, by name.
        int8: Whether the network can be quantised.
    """

    parts: Mapping[str, PartFile] = MappingProxyType({})
    int8: bool = True

    def strides(self, network: Any) -> tuple[int, ...]:
        """Input pixels for each step of each map that decoding needs, to be stored in the file."""
        return ()

    def check_strides(self, strides: tuple[int, ...]) -> None:
        """Raise ConfigError if a file gives strides that :meth:`strides` does not return."""
        if strides:
            raise ConfigError(f"its outputs have no strides, not {shown(strides)}")

    @abstractmethod
    def shapes(
        self, head: HeadDescription, strides: tuple[int, ...], size: InputSize | None = None
    ) -> dict[str, Shape]:
        """Names and shapes of the first file's outputs, in order.

        Args:
            head: Description of the head.
            strides: As :meth:`strides` returned them.
            size: The input's; sizes that depend on it are None if it is not given.
        """

    @abstractmethod
    def run(self, network: Any, images: Tensor) -> tuple[Tensor, ...]:
        """The first file's outputs, computed by the network, of images (B, C, H, W), normalised."""

    def without_parts(self, network: Any) -> nn.Module:
        """The network, which may be changed, without the weights that :meth:`run` does not use."""
        return network  # type: ignore[no-any-return]

    def part(self, network: Any, name: str) -> nn.Module:
        """A part as a module, from pooled regions (R, C, side, side) to its outputs."""
        raise NotImplementedError(f"{type(network).__name__} has no part {name}")

    @abstractmethod
    def best_classes(self, network: Any, files: ExportedFiles, image: Tensor) -> tuple[Tensor, Tensor]:
        """Best classes by the network and by its files, two integer tensors of one shape, to compare.

        Args:
            network: The network, in evaluation mode.
            files: Its files.
            image: (1, C, H, W), normalised.
        """

    def decoder(self, head: HeadDescription, strides: tuple[int, ...], files: ExportedFiles) -> nn.Module:
        """A module from an ``ImageList`` to the network's detections in it, around exported files.

        Only detectors need one.
        """
        raise NotImplementedError(f"{type(self).__name__} has no decoder")


class PyramidForm(ExportForm):
    """Outputs of a detector at all levels of its pyramid, whose strides are powers of two that double."""

    def strides(self, network: Any) -> tuple[int, ...]:
        return network.backbone.strides  # type: ignore[no-any-return]

    def check_strides(self, strides: tuple[int, ...]) -> None:
        steps = {after / before for before, after in itertools.pairwise(strides)}
        if steps != {2} or strides[0].bit_count() != 1:
            raise ConfigError(f"the strides of a detector are powers of two that double, not {shown(strides)}")


class PixelScores(ExportForm):
    """Scores of every pixel, as a segmenter returns them."""

    def shapes(
        self, head: HeadDescription, strides: tuple[int, ...], size: InputSize | None = None
    ) -> dict[str, Shape]:
        return {"scores": (size.batch, head.num_classes, *size[1:]) if size else (None, head.num_classes, None, None)}

    def run(self, network: Any, images: Tensor) -> tuple[Tensor, ...]:
        return (network(images),)

    def best_classes(self, network: Any, files: ExportedFiles, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.run(network, image)[0].argmax(1), files(image)["scores"].argmax(1)
