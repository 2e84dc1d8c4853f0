"""Images and targets that are not as the documentation says end in a ValueError that says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from transxnet.dense.create import create_segmenter
from transxnet.dense.input_checks import check_images, check_targets
from transxnet.dense.retinanet import RetinaNet

NAN = float("nan")
IMAGE = torch.zeros(3, 20, 30, dtype=torch.uint8)


def target(**changes: Any) -> dict[str, Tensor]:
    """A valid target of two objects, with changes; None removes an entry."""
    boxes = torch.tensor([[1.0, 2, 9, 8], [3, 4, 20, 15]])
    usual = {"boxes": boxes, "labels": torch.tensor([0, 2]), "masks": torch.zeros(2, 20, 30).bool()}
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


IMAGES: dict[str, tuple[Any, str]] = {
    "0 to 255": (torch.full((3, 4, 4), 255.0), r"must be from 0 to 1, not 255 to 255; divide it by 255"),
    "overshoot": (torch.full((3, 4, 4), 1.1), r"not 1\.1 to 1\.1; clamp it"),
    "NaN": (torch.full((3, 4, 4), NAN), "not numbers"),
    "channels": (torch.zeros(1, 4, 4), r"\(3, H, W\) of RGB, not \(1, 4, 4\)"),
    "channels last": (torch.zeros(4, 4, 3), r"not \(4, 4, 3\)"),
    "type": (torch.zeros(3, 4, 4, dtype=torch.int32), "uint8, or float from 0 to 1, not torch.int32"),
    "array": ("image.jpg", "must be a tensor .* not str"),
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_of_detectors(case: str) -> None:
    image, message = IMAGES[case]
    with pytest.raises(ValueError, match=rf"images\[1\] .*{message}"):
        check_images([IMAGE, image])


def test_usual_images_and_targets_pass() -> None:
    images = [IMAGE, torch.rand(3, 20, 30)]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "masks": torch.zeros(0, 20, 30)}
    check_images(images)
    check_targets(images, [target(), empty], 3, masks=True)
    check_targets(images, [target(masks=None), empty], 3, masks=False)


TARGETS: dict[str, tuple[dict[str, Any], str]] = {
    "a label too many": ({"labels": torch.tensor([0, 3])}, r'\["labels"\] must be from 0 to 2 \(3 classes\), not 3'),
    "below 0": ({"labels": torch.tensor([-1, 0])}, "not -1"),
    "float labels": ({"labels": torch.tensor([0.0, 1])}, r"must be int64 \(2,\), not torch.float32"),
    "too few labels": ({"labels": torch.tensor([0])}, r"not torch.int64 \(1,\)"),
    "no width": ({"boxes": torch.tensor([[1.0, 2, 1, 8], [3, 4, 20, 15]])}, "1 of 2 boxes have no width or height"),
    "NaN": ({"boxes": torch.tensor([[NAN, 2, 9, 8], [3, 4, 20, 15]])}, "not finite"),
    "whole numbers": ({"boxes": torch.ones(2, 4, dtype=torch.int64)}, r"must be float \(n, 4\), not torch.int64"),
    "one box": ({"boxes": torch.ones(4)}, r"not torch.float32 \(4,\)"),
    "other masks": ({"masks": torch.zeros(2, 10, 15)}, r"must be \(2, 20, 30\), as its image, not \(2, 10, 15\)"),
    "no masks": ({"masks": None}, "it lacks masks"),
    "list": ({"labels": [0, 2]}, "must be a tensor, not list"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_of_detectors(case: str) -> None:
    changes, message = TARGETS[case]
    with pytest.raises(ValueError, match=rf"targets\[1\].*{message}"):
        check_targets([IMAGE, IMAGE], [target(), target(**changes)], 3, masks=True)


@pytest.mark.parametrize("name", ["retinanet", "mask_rcnn"])
def test_detectors_check_what_they_are_given(name: str) -> None:
    from transxnet.dense.create import create_detector

    detector = create_detector(name, backbone="transxnet_nano", num_classes=3)
    assert isinstance(detector, RetinaNet) == (name == "retinanet")
    with pytest.raises(ValueError, match="each image needs a target"):
        detector.train()([IMAGE])
    with pytest.raises(ValueError, match="3 classes"):
        detector([IMAGE], [target(labels=torch.tensor([0, 3]))])
    with pytest.raises(ValueError, match="from 0 to 1"):
        detector.eval()([IMAGE * 0 + 255.0])


def test_a_segmenter_checks_what_it_learns_from() -> None:
    segmenter = create_segmenter(backbone="transxnet_nano", num_classes=4)
    images, labels = torch.randn(1, 3, 32, 32), torch.zeros(1, 32, 32).long()
    for image, label, message in [
        (images, labels + 4, r"labels must be from 0 to 3 \(4 classes\) or 255 for none, not 4"),
        (images, labels - 1, "not -1"),
        (images, labels.float(), r"labels must be int64 \(1, 32, 32\), as the images, not torch.float32"),
        (images, labels[:, :16], r"not torch.int64 \(1, 16, 32\)"),
        (images[0], labels, r"images must be float \(B, 3, H, W\), normalised"),
        (images.byte(), labels, "not torch.uint8"),
        (images * NAN, labels, "not finite"),
        (images.clamp(0, 1) * 255, labels, "images must be normalised"),
    ]:
        with pytest.raises(ValueError, match=message):
            segmenter.loss(image, label)
