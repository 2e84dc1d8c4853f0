"""Held-out images with a classifier's predictions, errors first."""

from __future__ import annotations

from pathlib import Path

import torch

from transxnet.classification.evaluate import Outputs
from transxnet.classification.labels import readable_names
from transxnet.data.sources import ImageSource
from transxnet.model import TransXNet
from transxnet.plotting.run_figures import Prediction, save_samples

_IMAGES = 32


def save_sheet(model: TransXNet, source: ImageSource, outputs: Outputs, path: Path, title: str) -> None:
    """Draw errors and, spread over the others, correctly classified images.

    Args:
        model: The classifier.
        source: The images.
        outputs: Its outputs for them.
        path: The picture.
        title: Above it.
    """
    names = readable_names(model)
    best = outputs.probabilities.max(dim=1)
    wrong = (best.indices != outputs.targets).nonzero().flatten().tolist()
    right = (best.indices == outputs.targets).nonzero().flatten().tolist()
    shown_wrong = wrong[: _IMAGES // 2]
    count = min(_IMAGES - len(shown_wrong), len(right))
    spread = torch.linspace(0, len(right) - 1, count).long().tolist() if right else []
    predictions = [
        Prediction(
            source.load(int(outputs.indices[row])),
            names[int(outputs.targets[row])],
            names[int(best.indices[row])],
            float(best.values[row]),
        )
        for row in [*shown_wrong, *(right[i] for i in spread)]
    ]
    errors = f"; {len(shown_wrong)} of {len(wrong)} errors first" if len(wrong) > len(shown_wrong) else ""
    save_samples(predictions, path, title + errors)
