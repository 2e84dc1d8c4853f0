"""Holding out images so that each class is represented, where an image may have several classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from transxnet.data.randomness import seed_for
from transxnet.data.splits import HELD_OUT


def held_out_by_classes(classes: Sequence[Collection[int]], seed: int) -> npt.NDArray[np.bool_]:
    """Hold out a fifth of the images of each class, the rarest class first.

    Of the images with a class, a fifth is held out, but at least one of two or more; the held-out images of
    rarer classes count. The others with it stay in the training set. At last, a fifth of the images without
    any class is held out.

    Args:
        classes: The class indices that each image has.
        seed: Seed of the choice.

    Returns:
        (n), whether each image is held out.
    """
    generator = np.random.default_rng(seed_for(seed))
    order = generator.permutation(len(classes)).tolist()
    held, decided = np.zeros(len(classes), np.bool_), np.zeros(len(classes), np.bool_)
    members: dict[int, list[int]] = {}
    for index in order:
        for label in set(classes[index]):
            members.setdefault(label, []).append(index)
    counts = Counter({label: len(images) for label, images in members.items()})
    for label in sorted(counts, key=lambda each: (counts[each], each)):
        _hold_out(members[label], held, decided)
    _hold_out([index for index in order if not len(classes[index])], held, decided)
    if not held.any() and len(classes) > 1:  # each class has one image
        labelled = [index for index in order if len(classes[index])]
        held[labelled[0] if len(labelled) > 1 else next(index for index in order if index not in labelled)] = True
    return held


def _hold_out(images: Sequence[int], held: npt.NDArray[np.bool_], decided: npt.NDArray[np.bool_]) -> None:
    wanted = max(1, round(HELD_OUT * len(images))) if len(images) > 1 else 0
    free = [index for index in images if not decided[index]]
    missing = wanted - int(held[list(images)].sum())
    held[free[: max(0, missing)]] = True
    decided[list(images)] = True
