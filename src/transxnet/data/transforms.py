"""timm's transforms for training and evaluation, with a network's preprocessing."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

import torch
from PIL import Image
from timm.data import auto_augment, create_transform, resolve_data_config
from timm.data.transforms import ResizeKeepRatio
from torch import Tensor

from transxnet.bounds import AspectRatio, PositiveShare, Share, check_bounds, shown
from transxnet.data.images.pixel_values import bands_of
from transxnet.data.loader import Transform
from transxnet.data.randomness import addressed_randomness
from transxnet.errors import ConfigError

_MAX_STRENGTH = 1000  # of timm's policies: operations on an image, their strength, its spread
_MAX_RESIZED = 2**26  # pixels
_MAX_RATIO = 64  # of the sides of a resized image
_COLOURS = 3


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images.

    The defaults are the paper's.

    Attributes:
        crop_scale: Range of the share of an image's area that a random crop keeps.
        crop_ratio: Range of the crop's width over its height.
        hflip: Probability of a horizontal flip.
        auto_augment: timm's policy string, such as for RandAugment; none if empty.
        color_jitter: Strength of colour jitter from 0 to 1, used without auto_augment.
        erase: Probability of erasing a rectangle, which is applied to the batch after mixing.
    """

    crop_scale: tuple[PositiveShare, PositiveShare] = (0.08, 1.0)
    crop_ratio: tuple[AspectRatio, AspectRatio] = (3 / 4, 4 / 3)
    hflip: Share = 0.5
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: Share = 0.0
    erase: Share = 0.25

    def __post_init__(self) -> None:
        check_bounds(self, "augmentation.")
        for name, (low, high) in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if low > high:
                raise ConfigError(f"augmentation.{name} must be increasing, not {low:g} to {high:g}")
        if any(float(number) > _MAX_STRENGTH for number in re.findall(r"\d+", self.auto_augment)):
            raise ConfigError(f"augmentation.auto_augment allows numbers up to {_MAX_STRENGTH:,}, not "
                              f"{shown(self.auto_augment)}")  # fmt: skip


class BandTransform:
    """A transform of images with a number of bands other than three: each band as grey, with the same randomness.

    Args:
        transforms: timm's transform of each band.

    Attributes:
        bands: Number of bands of the images.
    """

    def __init__(self, transforms: Sequence[Callable[[Image.Image], Tensor]]) -> None:
        self.transforms = transforms
        self.bands = len(transforms)

    def __call__(self, image: Image.Image) -> Tensor:
        seed = random.getrandbits(63)
        transformed = []
        for transform, band in zip(self.transforms, bands_of(image, self.bands), strict=True):
            with addressed_randomness(seed):
                transformed.append(transform(band))
        return torch.cat(transformed)


class _Evaluation:
    """An evaluation transform that resizes first, for images of any aspect ratio.

    Very long images, which would be resized to more than :data:`_MAX_RESIZED` pixels or to none, are
    cropped to their centre first, which evaluation would do anyway.

    Args:
        transform: timm's transform.
    """

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        resize = transform.transforms[0]
        sides = resize.size if isinstance(resize.size, list | tuple) else (resize.size, resize.size)
        bound = min(_MAX_RATIO, _MAX_RESIZED // max(sides) ** 2)
        self.max_ratio: float = max(bound, -(-max(sides) // min(sides)))
        if isinstance(resize, ResizeKeepRatio) and resize.longest:
            self.max_ratio = min(sides)
        elif not isinstance(resize, ResizeKeepRatio) and not isinstance(resize.size, int):
            self.max_ratio = math.inf  # both sides are resized to a fixed size

    def __call__(self, image: Image.Image) -> Tensor:
        limit = min(image.size) * self.max_ratio
        if max(image.size) > limit:
            left, top = (max(0, (side - int(limit)) // 2) for side in image.size)
            image = image.crop((left, top, image.width - left, image.height - top))
        return cast(Tensor, self.transform(image))


class Normalisation:
    """Normalises batches of bytes on their device, as the transforms below do image by image, to the same values.

    Args:
        pretrained_cfg: A network's.
    """

    def __init__(self, pretrained_cfg: Mapping[str, Any]) -> None:
        means, stds = normalisation(resolve_data_config(pretrained_cfg=dict(pretrained_cfg)))
        self._values = torch.tensor([means, stds]).view(2, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Shapes: (B, C, H, W), uint8, to the same, float32 with the channels last in memory."""
        if self._values.device != images.device:  # once
            self._values = self._values.to(images.device)
        means, stds = self._values
        scaled = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
        return scaled.sub_(means).div_(stds)


def evaluation_transform(pretrained_cfg: Mapping[str, Any], *, normalise: bool = True) -> Transform:
    """A transform that resizes, crops and normalises according to a network's ``pretrained_cfg``.

    Args:
        pretrained_cfg: The network's.
        normalise: Whether to normalise; otherwise images are bytes, for :class:`Normalisation`.
    """
    config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    return _for_bands(
        config, lambda each: _Evaluation(create_transform(**each, is_training=False, normalize=normalise))
    )


def training_transform(
    pretrained_cfg: Mapping[str, Any], augmentation: Augmentation, *, normalise: bool = True
) -> Transform:
    """A transform that augments, then normalises according to ``pretrained_cfg``; erasing is done on batches.

    Args:
        pretrained_cfg: A network's.
        augmentation: The settings.
        normalise: As of :func:`evaluation_transform`.

    Raises:
        ConfigError: If timm does not know the ``auto_augment`` policy.
    """
    config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    try:
        return _for_bands(config, lambda each: _augmenting(each, augmentation, normalise))
    except (AssertionError, NotImplementedError, ValueError) as error:  # raised by timm for unknown policies
        raise ConfigError(f"augmentation.auto_augment {augmentation.auto_augment!r} is not timm's: {error}") from error


def _augmenting(config: Mapping[str, Any], augmentation: Augmentation, normalise: bool) -> Transform:
    transform = create_transform(
        config["input_size"],
        is_training=True,
        scale=augmentation.crop_scale,
        ratio=augmentation.crop_ratio,
        hflip=augmentation.hflip,
        auto_augment=augmentation.auto_augment or None,
        color_jitter=augmentation.color_jitter,
        interpolation="random" if augmentation.auto_augment else config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        normalize=normalise,
    )
    for step in transform.transforms:
        for operation in (*getattr(step, "ops", ()), *chain(*getattr(step, "policy", ()))):
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = _posterize
    return cast(Transform, transform)


def _posterize(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """Timm's operation; black for no bits, as always, which Pillow refuses from version 13 on."""
    if bits < 1:
        return Image.new(image.mode, image.size)
    return cast(Image.Image, auto_augment.posterize(image, bits, **settings))


def _for_bands(config: Mapping[str, Any], create: Callable[[Mapping[str, Any]], Transform]) -> Transform:
    """The transform of images of a configuration's number of bands."""
    bands, *size = config["input_size"]
    if bands == _COLOURS:
        return create(config)
    means, stds = normalisation(config)
    each = {**config, "input_size": (1, *size)}
    return BandTransform(
        [create({**each, "mean": (mean,), "std": (std,)}) for mean, std in zip(means, stds, strict=True)]
    )


def normalisation(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each band of a network's images, by its ``pretrained_cfg``."""
    bands = config["input_size"][0]
    return _for_each_band(config["mean"], bands), _for_each_band(config["std"], bands)


def _for_each_band(values: Sequence[float], bands: int) -> tuple[float, ...]:
    """A value for each band; where there are those of red, green and blue only, other bands have their mean."""
    if len(values) in (1, bands):
        return tuple(values) * (bands // len(values))
    known = tuple(values) if bands > _COLOURS else ()
    return known + (sum(values) / len(values),) * (bands - len(known))
