"""Fingerprints of data sets: which images a run learns from and holds out, and what changed since."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from transxnet.data.description import DataDescription
from transxnet.data.names import listed, name_key, same_names
from transxnet.errors import CheckpointError, DataError
from transxnet.text import counted

Adopt = Callable[[Any], Any]
"""Takes the data set that was opened, and returns the one to use."""

_Hashes = npt.NDArray[np.int64]
_MAX_NAMED = 3


class Images(Protocol):
    """The images of a part."""

    @property
    def class_names(self) -> Sequence[str]:
        """Class names, in the order of the class indices."""

    def __len__(self) -> int:
        """Number of images."""

    def name(self, index: int) -> str:
        """Name of an image."""


class DividedData(Protocol):
    """A data set of any task, divided into training and validation images."""

    @property
    def train(self) -> Any:
        """Training images."""

    @property
    def validation(self) -> Any:
        """Validation images."""

    @property
    def everything(self) -> Any:
        """The images that both were drawn from; None if the data set has a validation part."""

    def description(self) -> DataDescription:
        """Description of the data set."""


@dataclass(frozen=True)
class ImageNames:
    """Names of images, as 64-bit digests: the names of a million images would take 100 MB in every checkpoint.

    Attributes:
        paths: (n), of the names below the data set's folder.
        tails: (n), of the last folder and the file, which stay when an image is moved to another part.
    """

    paths: _Hashes
    tails: _Hashes

    @classmethod
    def of(cls, source: Images, root: Path) -> ImageNames:
        """The names of images of a data set in a folder."""
        prefix = f"{root}{os.sep}"
        names = [name_key(source.name(index).removeprefix(prefix)) for index in range(len(source))]
        tails = ["/".join(name.replace("\\", "/").split("/")[-2:]) for name in names]
        return cls(_digests(names), _digests(tails))

    def contain(self, others: ImageNames, before: Fingerprint) -> npt.NDArray[np.bool_]:
        """Whether each of other images is among these, by its name, or moved since by its tail."""
        same = np.isin(others.paths, self.paths)
        known = np.isin(others.paths, np.concatenate([before.train.paths, before.validation.paths]))
        gone = self.tails[~np.isin(self.paths, others.paths)]
        moved: npt.NDArray[np.bool_] = same | (~known & np.isin(others.tails, gone))
        return moved


@dataclass(frozen=True)
class Fingerprint:
    """Classes and images of a divided data set.

    Attributes:
        class_names: Class names, in the order of the class indices.
        train: Names of the training images.
        validation: Names of the validation images.
        contents: Digest of the order of the images, and of their labels as far as these are counted.
    """

    class_names: tuple[str, ...]
    train: ImageNames
    validation: ImageNames
    contents: str

    @classmethod
    def of(cls, data: DividedData, root: Path, description: DataDescription | None = None) -> Fingerprint:
        """The fingerprint of a data set in a folder.

        Args:
            data: The data set.
            root: The folder.
            description: The data set's description, if it was made before.
        """
        train, validation = (ImageNames.of(source, root) for source in (data.train, data.validation))
        counts = [sorted(part.counts.items()) for part in (description or data.description()).parts]
        digest = hashlib.sha256(json.dumps(counts).encode())
        for source, names in ((data.train, train), (data.validation, validation)):
            digest.update(names.paths.tobytes())
            targets = getattr(source, "targets", ())  # of classification
            digest.update(np.asarray(targets, np.int32).tobytes())
        return cls(tuple(data.train.class_names), train, validation, digest.hexdigest())

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        tensors = {
            f"{part}.{field.name}": torch.from_numpy(getattr(getattr(self, part), field.name))
            for part in ("train", "validation")
            for field in dataclasses.fields(ImageNames)
        }
        return {"class_names": json.dumps(self.class_names), "contents": self.contents, **tensors}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Fingerprint:
        """Read the values of a checkpoint; raises CheckpointError if they are no fingerprint."""
        try:
            names = json.loads(state["class_names"])
            parts = [
                ImageNames(*(_checked(state[f"{part}.{kind}"]) for kind in ("paths", "tails")))
                for part in ("train", "validation")
            ]
            if not all(isinstance(name, str) for name in names):
                raise ValueError("its class names are not text")
            return cls(tuple(names), parts[0], parts[1], str(state["contents"]))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError("its fingerprint of the data is damaged") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the images."""
        sizes = {"training_images": len(self.train.paths), "validation_images": len(self.validation.paths)}
        return {"classes": list(self.class_names), **sizes, "contents": self.contents}


def class_changes(before: Sequence[str], now: Sequence[str]) -> str | None:
    """Changes in a list of classes, in words; None if they are the same, in any Unicode form."""
    if same_names(before, now):
        return None
    old, new = ({name_key(name): name for name in names} for names in (before, now))
    added = [name for key, name in new.items() if key not in old]
    removed = [name for key, name in old.items() if key not in new]
    parts = [f"{listed(added)} added"] * bool(added) + [f"{listed(removed)} removed"] * bool(removed)
    return f"classes: {', '.join(parts) or 'another order'}"


def same_images(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two data sets have the same images, however they are divided."""
    return np.array_equal(np.sort(_both(one).paths), np.sort(_both(other).paths))


def image_changes(before: Fingerprint, now: Fingerprint, data: DividedData, root: Path) -> list[str]:
    """Changes in the images since a fingerprint was taken, in words; empty if nothing did.

    Args:
        before: The fingerprint.
        now: The fingerprint of the data set as it is.
        data: The data set.
        root: Its folder.
    """
    if data.everything is not None:
        found = _image_changes("image", _both(before), ImageNames.of(data.everything, root), data.everything)
    else:
        found = _image_changes("training image", before.train, now.train, data.train)
        found += _image_changes("validation image", before.validation, now.validation, data.validation)
    if not found and before.contents != now.contents:
        found = ["the order or the labels of the images"]
    return found


def with_split_of(before: Fingerprint, data: Any, root: Path) -> Any:
    """A data set divided as before: held-out images stay held out, images learned from are never held out.

    New images are learned from, unless the data set has a validation part that they are in.

    Args:
        before: The fingerprint of the data set before it changed.
        data: The data set, of any task.
        root: Its folder.

    Raises:
        DataError: If no training or no validation image is left.
    """
    if data.everything is not None:
        held = before.validation.contain(ImageNames.of(data.everything, root), before)
        train, validation = (data.everything.subset(np.flatnonzero(part)) for part in (~held, held))
    else:
        held = before.validation.contain(ImageNames.of(data.train, root), before)
        learned = before.train.contain(ImageNames.of(data.validation, root), before)
        train, validation = data.train.subset(np.flatnonzero(~held)), data.validation.subset(np.flatnonzero(~learned))
    if not len(train) or not len(validation):
        lacking = "validation" if len(train) else "training"
        raise DataError(f"no {lacking} image is left of those that {root} had before; start a new run")
    return dataclasses.replace(data, train=train, validation=validation)


def _image_changes(kind: str, old: ImageNames, new: ImageNames, source: Images) -> list[str]:
    added = np.flatnonzero(~np.isin(new.paths, old.paths))
    removed = int((~np.isin(old.paths, new.paths)).sum())
    names = listed([source.name(int(index)) for index in added[:_MAX_NAMED]])
    more = ", ..." if len(added) > _MAX_NAMED else ""
    found = [f"{counted(len(added), kind)} added ({names}{more})"] if len(added) else []
    return found + ([f"{counted(removed, kind)} removed"] if removed else [])


def _both(fingerprint: Fingerprint) -> ImageNames:
    parts = fingerprint.train, fingerprint.validation
    return ImageNames(*(np.concatenate([getattr(part, kind) for part in parts]) for kind in ("paths", "tails")))


def _digests(names: Sequence[str]) -> _Hashes:
    digests = b"".join(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in names)
    return np.frombuffer(digests, np.dtype("<i8")).astype(np.int64)


def _checked(tensor: torch.Tensor) -> _Hashes:
    if tensor.dtype != torch.int64 or tensor.ndim != 1:
        raise ValueError("it is not a list of digests")
    found: _Hashes = tensor.numpy()
    return found
