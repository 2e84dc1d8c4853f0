"""Published accuracies: Table II of the paper, with timm's names of its networks."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib.resources import files

_IN_TIMM = {
    "transxnet_tiny": "TransXNet-T",
    "transxnet_small": "TransXNet-S",
    "transxnet_base": "TransXNet-B",
    "convnext_small": "ConvNeXt-S",
    "convnext_tiny": "ConvNeXt-T",
    "maxvit_tiny_tf_224": "MaxViT-T",
    "pvt_v2_b1": "PVTv2-b1",
    "pvt_v2_b2": "PVTv2-b2",
    "pvt_v2_b4": "PVTv2-b4",
    "regnety_016": "RegNetY-1.6G",
    "resnet18": "RSB-ResNet-18",
    "swin_base_patch4_window7_224": "Swin-B",
    "swin_tiny_patch4_window7_224": "Swin-T",
}


@dataclass(frozen=True)
class Published:
    """A row of Table II.

    Attributes:
        model: The paper's name.
        kind: "CNN", "Transformer" or "hybrid".
        params: Millions of parameters.
        macs: Billions of multiply-accumulate operations for an image of 224 x 224 (the paper's "FLOPs").
        top1: ImageNet-1K top-1 accuracy in per cent.
    """

    model: str
    kind: str
    params: float
    macs: float
    top1: float

    @property
    def family(self) -> str:
        """The name without the size."""
        return self.model.rpartition("-")[0] or self.model


@functools.cache
def table2() -> tuple[Published, ...]:
    """The rows of Table II, in the paper's order."""
    text = (files("transxnet.research") / "data" / "table2.csv").read_text(encoding="utf-8")
    return tuple(
        Published(row["model"], row["type"], float(row["params_m"]), float(row["macs_g"]), float(row["top1"]))
        for row in csv.DictReader(text.splitlines())
    )


def published(name: str) -> Published | None:
    """The row of a network, by its registered name; None if it has none."""
    model = _IN_TIMM.get(name.partition(".")[0])
    return next((row for row in table2() if row.model == model), None)
