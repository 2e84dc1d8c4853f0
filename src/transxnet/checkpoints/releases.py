"""The weights that the paper's authors released, and the description of every network for timm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from transxnet.ablation.rows import NETWORKS

_RELEASE = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/"


@dataclass(frozen=True)
class ReleasedWeights:
    """A checkpoint that the paper's authors released.

    Attributes:
        architecture: The network's registered name.
        tag: Its tag in timm.
        file: Name of the file in release v1.0.
        img_size: Side of the square images it was trained on, in pixels.
        crop_pct: Share of the resized image's side that evaluation keeps.
        top1: ImageNet-1K top-1 accuracy in per cent, as published.
        top1_v2: ImageNet-V2 top-1 accuracy in per cent, as published; None where it was not.
    """

    architecture: str
    tag: str
    file: str
    img_size: int
    crop_pct: float
    top1: float
    top1_v2: float | None

    @property
    def url(self) -> str:
        return _RELEASE + self.file


RELEASED = (
    ReleasedWeights("transxnet_tiny", "in1k", "transx-t.pth.tar", 224, 0.9, 81.6, 70.7),
    ReleasedWeights("transxnet_small", "in1k", "transx-s.pth.tar", 224, 0.9, 83.8, 73.8),
    ReleasedWeights("transxnet_base", "in1k", "transx-b.pth.tar", 224, 0.95, 84.6, 75.0),
    # The crop of the 384 x 384 evaluation was not published; 0.95 is the released code's default.
    ReleasedWeights("transxnet_base", "in1k_384", "transx-b-384.pth.tar", 384, 0.95, 85.5, None),
)
"""The authors' weights of classifiers, in the order of the paper's tables."""


SHORT_NAMES = {"transxnet_t": "transxnet_tiny", "transxnet_s": "transxnet_small", "transxnet_b": "transxnet_base"}
"""The names of the released code."""


def _describe(img_size: int = 224, **changes: Any) -> dict[str, Any]:
    return {
        "input_size": (3, img_size, img_size),
        "min_input_size": (3, 32, 32),
        "pool_size": (img_size // 32, img_size // 32),
        "num_classes": 1000,
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv",
        "classifier": "head.fc",
        "paper_name": "TransXNet: Learning Both Global and Local Dynamics with a Dual Dynamic Token Mixer "
        "for Visual Recognition",
        "paper_ids": "arXiv:2310.19380",
        **changes,
    }


def timm_descriptions() -> dict[str, Any]:
    """Description of each network for timm, by name and tag."""
    released = {release.architecture for release in RELEASED}
    cfgs = {f"{name}.untrained": _describe() for name in NETWORKS if name not in released}
    for release in RELEASED:
        names = [release.architecture, *(s for s, full in SHORT_NAMES.items() if full == release.architecture)]
        for name in names:
            cfgs[f"{name}.{release.tag}"] = _describe(
                release.img_size,
                url=release.url,
                crop_pct=release.crop_pct,
                license="apache-2.0",
                origin_url="https://github.com/LMMMEng/TransXNet",
            )
    return cfgs
