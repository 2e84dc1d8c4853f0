"""Resizing and batching of photographs, and detections in their pixels, as the released detectors were trained."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.transforms.v2 import functional as V

from transxnet.dense.anchors import SIZE_DIVISOR

Target = dict[str, Tensor]

_MAX_MASK_BYTES = 3 * 2**29  # a byte for each pixel and object


class DetectionTransform(nn.Module):
    """Resizes grey levels without antialiasing, then normalises, then pads with zeros to a multiple of 32.

    It replaces ``GeneralizedRCNNTransform`` of torchvision's detectors, which normalises before it
    resizes and rounds sizes down.

    Args:
        short: Wanted length of an image's shorter side in pixels; None leaves images as they are.
        long: Bound of the longer side.
        mean: Mean of each channel, of values from 0 to 1.
        std: Standard deviation of each channel.
    """

    def __init__(
        self,
        short: int | None = 800,
        long: int = 1333,
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
    ) -> None:
        super().__init__()
        self.short = short
        self.long = long
        self.mean = mean
        self.std = std

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> tuple[ImageList, Any]:
        """Shapes: images (3, H, W), uint8 or float from 0 to 1; boxes (n, 4) in their pixels, masks (n, H, W)."""
        resized = [self.resized(image) for image in images]
        if targets is not None:
            sizes = [(image.shape[1], image.shape[2]) for image in images]
            targets = [self.resized_target(target, size) for target, size in zip(targets, sizes, strict=True)]
        sizes = [(image.shape[1], image.shape[2]) for image in resized]
        height, width = (math.ceil(max(side) / SIZE_DIVISOR) * SIZE_DIVISOR for side in zip(*sizes, strict=True))
        batch = torch.zeros(len(images), 3, height, width, device=images[0].device)
        for padded, image in zip(batch, resized, strict=True):
            padded[:, : image.shape[1], : image.shape[2]] = self._normalised(image)
        return ImageList(batch, sizes), targets

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size that an image is brought to."""
        if self.short is None:
            return height, width
        scale = min(self.long / max(height, width), self.short / min(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def resized(self, image: Tensor) -> Tensor:
        """The image (3, H', W') as uint8."""
        levels = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
        size = self.size(image.shape[1], image.shape[2])
        return levels if size == image.shape[1:] else V.resize(levels, list(size), antialias=False)

    def resized_target(self, target: Target, size: tuple[int, int]) -> Target:
        """Boxes and masks of an image of a height and width, in the pixels of its resized form."""
        new = self.size(*size)
        changed = target | {"boxes": target["boxes"] * _factors(size, new, target["boxes"])}
        if "masks" in target and new != size:
            changed["masks"] = V.resize(target["masks"], list(new), interpolation=V.InterpolationMode.NEAREST)
        return changed

    def postprocess(
        self, result: list[Target], image_shapes: list[tuple[int, int]], original_image_sizes: list[tuple[int, int]]
    ) -> list[Target]:
        """Boxes, and masks (n, H, W), in the pixels of the images as they were given.

        Of an image with so many pixels that its masks would take more than 1.5 GiB, only the objects with
        the highest scores are kept, with a warning.
        """
        for found, new, old in zip(result, image_shapes, original_image_sizes, strict=True):
            kept = max(1, _MAX_MASK_BYTES // (old[0] * old[1]))
            if "masks" in found and len(found["masks"]) > kept:
                warnings.warn(
                    f"masks of {old[1]} x {old[0]} pixels: only the {kept} objects with the highest scores are kept, "
                    f"of {len(found['masks'])}",
                    stacklevel=2,
                )
                best = found["scores"].argsort(descending=True, stable=True)[:kept]
                found.update({name: values[best] for name, values in found.items()})
            found["boxes"] = found["boxes"] * _factors(new, old, found["boxes"])
            if "masks" in found:
                found["masks"] = pasted(found["masks"][:, 0], found["boxes"], old)
        return result

    def _normalised(self, image: Tensor) -> Tensor:
        mean, std = (_constant(values, image.device)[:, None, None] for values in (self.mean, self.std))
        return (image / 255 - mean) / std


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxes' masks in the image: sampled bilinearly at the pixels' centres, nothing outside the box.

    Args:
        masks: Probabilities, (n, h, w), each over its box.
        boxes: (n, 4) in pixels, not rounded.
        size: Height and width of the image.

    Returns:
        (n, *size), bool: where the probability is at least a half.
    """
    height, width = size
    result = torch.zeros(len(masks), height, width, dtype=torch.bool, device=masks.device)
    sides = boxes.tolist()  # of all boxes at once: a GPU is waited for
    for index, (mask, box, (left, top, right, bottom)) in enumerate(zip(masks, boxes, sides, strict=True)):
        # Only pixels in the box can reach a half.
        first_row, last_row = max(math.floor(top), 0), min(math.ceil(bottom) + 1, height)
        first_column, last_column = max(math.floor(left), 0), min(math.ceil(right) + 1, width)
        if first_row >= last_row or first_column >= last_column:
            continue
        rows = torch.arange(first_row, last_row, device=masks.device)
        columns = torch.arange(first_column, last_column, device=masks.device)
        y = 2 * (rows + 0.5 - box[1]) / (box[3] - box[1]) - 1
        x = 2 * (columns + 0.5 - box[0]) / (box[2] - box[0]) - 1
        shape = len(rows), len(columns)
        grid = torch.stack([x.expand(shape), y[:, None].expand(shape)], dim=-1)
        probability = F.grid_sample(mask[None, None], grid[None].to(mask), align_corners=False)
        result[index, first_row:last_row, first_column:last_column] = probability[0, 0] >= 0.5
    return result


def _factors(old: tuple[int, ...], new: tuple[int, ...], like: Tensor) -> Tensor:
    y, x = new[0] / old[0], new[1] / old[1]
    return _constant((x, y, x, y), like.device, like.dtype)


def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values on a device, without waiting for a GPU."""
    return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)
