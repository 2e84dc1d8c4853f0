"""Augmentation of images with their boxes, masks and labels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from transxnet import ConfigError
from transxnet.data.dense_transforms import (
    DetectionAugmentation,
    SegmentationAugmentation,
    augment_detection,
    augment_segmentation,
    photometric_distortion,
    resized_labels,
)
from transxnet.data.randomness import addressed_randomness
from transxnet.dense.segmentation_transform import SegmentationTransform, fitted, resized

STILL = {"photometric": False, "hflip": 0.0}


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.integers(0, 256, (3, height, width), np.uint8))


def levels(image: Tensor) -> Tensor:
    """Grey levels of a normalised image."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return (image * std + mean) * 255


@pytest.mark.parametrize("size", [(61, 83), (200, 257), (47, 33), (90, 121)])
def test_resizing_matches_opencv(size: tuple[int, int]) -> None:
    image = picture(90, 120)
    expected = cv2.resize(image.permute(1, 2, 0).numpy(), size[::-1], interpolation=cv2.INTER_LINEAR)
    difference = resized(image, size).permute(1, 2, 0).numpy().astype(int) - expected
    assert np.abs(difference).max() <= 1
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (90, 120)))
    nearest = cv2.resize(labels.numpy().astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(resized_labels(labels, size).numpy(), nearest)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (512, 683)), (640, 480, (683, 512)), (300, 1500, (410, 2048)), (512, 2048, (512, 2048))],
)
def test_sizes(height: int, width: int, expected: tuple[int, int]) -> None:
    assert fitted(height, width, 2048, 512) == expected


def test_evaluation_resizes_twice_and_normalises() -> None:
    image = picture(48, 65)
    seen = SegmentationTransform(64, 256)(image)
    assert seen.shape == (3, 64, 96)  # 64 x 87, then up to multiples of 32
    first = cv2.resize(image.permute(1, 2, 0).numpy(), (87, 64))
    expected = cv2.resize(first, (96, 64)).transpose(2, 0, 1).astype(float)
    assert (levels(seen) - torch.from_numpy(expected)).abs().max() < 2.01
    grey = torch.tensor(IMAGENET_DEFAULT_MEAN)[:, None, None] * 255
    assert SegmentationTransform()(grey.round().to(torch.uint8).expand(3, 40, 40)).abs().max() < 0.01


def test_a_crop_and_its_labels_stay_together() -> None:
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (12, 20))).repeat_interleave(10, 0)
    labels = labels.repeat_interleave(10, 1)  # 120 x 200
    image = (labels * 100).to(torch.uint8).expand(3, -1, -1)
    settings = SegmentationAugmentation(scale=(0.5, 2.0), crop=96, photometric=False, long=200, short=120)
    seen = set()
    for seed in range(12):
        with addressed_randomness(seed):
            crop, kept = augment_segmentation(image, labels, settings)
        assert crop.shape == (3, 96, 96) and kept.shape == (96, 96) and kept.dtype == torch.int64
        inside = kept != 255
        same = (levels(crop)[0].round() / 100).round() == kept
        assert same[inside].float().mean() > 0.9  # except at borders between classes
        seen.add(round(float(inside.float().mean()), 3))
    assert 1.0 in seen and len(seen) > 2  # sometimes smaller than the crop, by different amounts


def test_padding_is_mean_colour_and_ignored() -> None:
    crop, labels = augment_segmentation(
        picture(20, 40), torch.ones(20, 40, dtype=torch.long),
        SegmentationAugmentation(scale=(1, 1), crop=64, long=80, short=20, **STILL),  # type: ignore[arg-type]
    )  # fmt: skip
    assert (labels[:20, :40] == 1).all() and (labels != 255).sum() == 20 * 40
    assert (crop[:, 20:] == 0).all() and (crop[:, :, 40:] == 0).all()
    assert (levels(crop)[:, :20, :40] - picture(20, 40)).abs().max() < 0.01


def test_crops_of_almost_one_class_are_avoided() -> None:
    labels = torch.zeros(64, 128, dtype=torch.long)
    labels[:, 64:] = 1
    labels[32:] = 255  # ignored
    uneven = {}
    for share in (1.0, 0.75):
        settings = SegmentationAugmentation(
            scale=(1, 1), crop=64, max_share=share, long=128, short=64, **STILL,  # type: ignore[arg-type]
        )  # fmt: skip
        uneven[share] = 0
        for seed in range(40):
            with addressed_randomness(seed):
                _, kept = augment_segmentation(picture(64, 128), labels, settings)
            counts = torch.bincount(kept[kept != 255], minlength=2)
            uneven[share] += int(counts.max() >= 0.75 * counts.sum())
    assert uneven[1.0] > 10 and uneven[0.75] == 0


def test_probability_of_flips() -> None:
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :, :16] = 255
    labels = (image[0] > 0).long()
    for probability, flipped in ((0.0, 0), (1.0, 20)):
        settings = SegmentationAugmentation(
            scale=(1, 1), crop=32, hflip=probability, photometric=False, long=32, short=32
        )
        kept = [augment_segmentation(image, labels, settings) for _ in range(20)]
        assert sum(int(label[0, 0] == 0) for _, label in kept) == flipped
        assert all(torch.equal(crop[0] > 0, label > 0) for crop, label in kept)


def test_light_changes_match_opencv_in_hsv(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(40, 50)
    draws = iter([0.9, 0.1, 0.9, 0.1, 0.1])  # no brightness; contrast first, but none; saturation; hue
    monkeypatch.setattr("random.random", lambda: next(draws))
    amounts = iter([1.4, 0.05])
    monkeypatch.setattr("random.uniform", lambda low, high: next(amounts))
    seen = photometric_distortion(image).permute(1, 2, 0).numpy()
    hsv = cv2.cvtColor(image.permute(1, 2, 0).numpy().astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + 0.05 * 360) % 360
    hsv[..., 1] = np.minimum(hsv[..., 1] * 1.4, 1)
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    assert np.abs(seen - expected).max() < 1.01


def test_light_changes_stay_within_their_bounds() -> None:
    grey = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    values = []
    for seed in range(200):
        with addressed_randomness(seed):
            seen = photometric_distortion(grey)
        assert seen.dtype == torch.uint8 and (seen == seen[0, 0, 0]).all()  # grey stays grey
        values.append(int(seen[0, 0, 0]))
    assert min(values) >= (100 - 32) * 0.5 - 1 and max(values) <= (100 + 32) * 1.5 + 1
    assert 0.15 < np.mean(np.array(values) == 100) < 0.35  # neither brightness nor contrast: a quarter
    assert min(values) < 60 and max(values) > 150


def test_augmentation_is_deterministic_for_an_address() -> None:
    image, labels = picture(64, 64), torch.from_numpy(np.random.default_rng(0).integers(0, 5, (64, 64)))
    settings = SegmentationAugmentation(crop=48, long=128, short=64)
    crops = []
    for seed in (0, 0, 1):
        with addressed_randomness(seed):
            crops.append(augment_segmentation(image, labels, settings))
    assert torch.equal(crops[0][0], crops[1][0]) and torch.equal(crops[0][1], crops[1][1])
    assert not torch.equal(crops[0][0], crops[2][0])


def test_objects_flip_with_their_image() -> None:
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[:, 4:9, 2:12] = 255
    masks = (image[:1] > 0).clone()
    boxes = torch.tensor([[2.0, 4.0, 12.0, 9.0]])
    flipped, moved, mirrored = augment_detection(image, boxes, masks, DetectionAugmentation(hflip=1.0))
    left, top, right, bottom = moved[0].int().tolist()
    assert (left, top, right, bottom) == (18, 4, 28, 9)
    assert mirrored is not None and torch.equal(mirrored[0], flipped[0] > 0)
    assert mirrored[0, top:bottom, left:right].all() and mirrored.sum() == 50
    same, unmoved, nothing = augment_detection(image, boxes, None, DetectionAugmentation(hflip=0.0))
    assert same is image and unmoved is boxes and nothing is None
    empty = augment_detection(image, torch.zeros(0, 4), None, DetectionAugmentation(hflip=1.0))[1]
    assert empty.shape == (0, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (2.0, 0.5)}, "scale must be increasing"),
        ({"scale": (0.0, 0.5)}, "scale must be 2 numbers above 0"),
        ({"crop": 16}, "crop must be a whole number from 32 to"),
        ({"max_share": 0.0}, "max_share"),
        ({"hflip": 1.5}, "hflip"),
        ({"short": 600, "long": 500}, "short must be at most long"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentationAugmentation(**settings)
    if "hflip" in settings:
        with pytest.raises(ConfigError, match=message):
            DetectionAugmentation(**settings)
