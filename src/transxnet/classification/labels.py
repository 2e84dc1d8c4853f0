"""Names of a classifier's classes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from timm.data import ImageNetInfo

from transxnet.data.sources import imagenet_synsets
from transxnet.model import TransXNet


def label_names(model: TransXNet) -> list[str]:
    """Names of a network's classes in its data set; empty if they are not known.

    A network of 1000 classes without names is assumed to have ImageNet's: WordNet ids.
    """
    names: Sequence[str] = getattr(model, "pretrained_cfg", {}).get("label_names") or ()
    if len(names) == model.num_classes:
        return list(names)
    return imagenet_synsets() if model.num_classes == 1000 else []


def readable_names(model: TransXNet) -> list[str]:
    """The names for people: words in place of WordNet ids, numbers where nothing is known."""
    names = label_names(model) or [f"class {index}" for index in range(model.num_classes)]
    words = _imagenet_words()
    return [words.get(name, name) for name in names]


@functools.cache
def _imagenet_words() -> Mapping[str, str]:
    """The first word for each WordNet id of ImageNet-1K, which timm finds in files of 20,000 lines."""
    words = ImageNetInfo("imagenet-1k").label_descriptions(as_dict=True)
    assert isinstance(words, dict)
    return {name: described.split(",")[0] for name, described in words.items()}
