"""Predictions drawn on images: boxes, masks and colour maps, with legends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as V
from torchvision.utils import draw_bounding_boxes

from transxnet.dense.detection_transform import Target
from transxnet.dense.pixel_classes import IGNORED
from transxnet.files import replacing
from transxnet.plotting.fonts import drawable, font_for, usual_file

Color = tuple[int, int, int]

_SMALLEST = 480  # pixels of a drawn picture's longer side: labels are to be read
_LARGEST = 2**25  # pixels of a drawn picture: the drawing takes tens of bytes for each
_FONT_SIZE = 13
_OPACITY, _OPACITY_OF_CLASSES = 0.45, 0.6
_MAX_ENTRIES = 24  # classes in a legend


def draw_objects(image: Image.Image, found: Target, names: Sequence[str], colors: Sequence[Color]) -> Image.Image:
    """An image with its objects: frame, class, score and mask, and a legend of the classes.

    Args:
        image: The image as it was given to the network.
        found: ``boxes`` (n, 4) in its pixels, ``labels`` (n), perhaps ``scores`` (n) and ``masks`` (n, H, W).
        names: The classes'.
        colors: The classes'.
    """
    picture, factor = _sized(image)
    labels = [int(label) for label in found["labels"]]
    shades = [colors[label] for label in labels]
    canvas = V.pil_to_tensor(picture)
    if labels:
        if "masks" in found:
            masks = (_nearest(mask, canvas) for mask in found["masks"].cpu())
            canvas = _blended(canvas, zip(masks, shades, strict=True), _OPACITY)
        scores = [f" {score:.0%}" for score in found["scores"].tolist()] if "scores" in found else [""] * len(labels)
        font = font_for(names[label] for label in set(labels))
        captions = [drawable(names[label], font) + score for label, score in zip(labels, scores, strict=True)]
        canvas = draw_bounding_boxes(
            canvas,
            found["boxes"].cpu() * factor,
            captions,
            colors=shades,
            width=2,
            font=font,
            font_size=_FONT_SIZE,
            label_colors=[_ink(shade) for shade in shades],
            label_background_colors=shades,
            fill_labels=True,
        )
    return _with_legend(V.to_pil_image(canvas), sorted(set(labels)), names, colors)


def draw_classes(image: Image.Image, classes: Tensor, names: Sequence[str], colors: Sequence[Color]) -> Image.Image:
    """An image under its classes' colours, and a legend of the classes, the most frequent first.

    Args:
        image: The image.
        classes: (H, W), the class of each pixel; 255 stays uncoloured.
        names: The classes'.
        colors: The classes'.
    """
    picture, _ = _sized(image)
    counts = torch.bincount(classes.flatten(), minlength=IGNORED + 1)[: len(names)]
    present = [label for label in counts.argsort(descending=True).tolist() if counts[label]]
    canvas = V.pil_to_tensor(picture)
    if present:
        labels = _nearest(classes, canvas)
        canvas = _blended(canvas, ((labels == label, colors[label]) for label in present), _OPACITY_OF_CLASSES)
    return _with_legend(V.to_pil_image(canvas), present, names, colors)


def save_sheet(pictures: Sequence[Image.Image], heads: Sequence[str], title: str, path: Path) -> None:
    """Write pictures in rows under the columns' heads, as many a row as there are heads."""
    file = font_for([title])
    gap, title, title_font, head_font = 10, drawable(title, file), _font(18, file), _font(15, usual_file())
    heads = heads[: max(len(pictures), 1)]
    rows = [pictures[at : at + len(heads)] for at in range(0, len(pictures), len(heads))]
    widths = [max((picture.width for picture in pictures[at :: len(heads)]), default=0) for at in range(len(heads))]
    tops = [60]
    for row in rows:
        tops.append(tops[-1] + max(picture.height for picture in row) + gap)
    lefts = [gap + sum(widths[:at]) + gap * at for at in range(len(heads))]
    width = max(sum(widths) + gap * (len(widths) + 1), round(title_font.getlength(title)) + 2 * gap)
    page = Image.new("RGB", (width, tops[-1]), "white")
    pen = ImageDraw.Draw(page)
    pen.text((gap, 8), title, "black", title_font)
    for head, left in zip(heads, lefts, strict=True):
        pen.text((left, 36), head, "black", head_font)
    for row, top in zip(rows, tops, strict=False):
        for picture, left in zip(row, lefts, strict=False):
            page.paste(picture, (left, top))
    save_picture(page, path)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, replacing an old one at once."""
    with replacing(path) as temporary:
        picture.save(temporary)


def _nearest(values: Tensor, canvas: Tensor) -> Tensor:
    """Labels or a mask (h, w) at the size of a canvas (3, H, W), as uint8."""
    return V.resize(values[None].byte(), list(canvas.shape[1:]), interpolation=V.InterpolationMode.NEAREST)[0]  # type: ignore[no-any-return]


def _blended(canvas: Tensor, masks: Iterable[tuple[Tensor, Color]], opacity: float) -> Tensor:
    """A canvas (3, H, W), uint8, under masks (H, W) with their colours; black where masks overlap.

    As torchvision's ``draw_segmentation_masks``, which wants all masks at once and adds them up as
    int64: gigabytes for large pictures.
    """
    drawn = canvas.clone()
    covered = torch.zeros(canvas.shape[1:], dtype=torch.bool)
    overlapping = torch.zeros_like(covered)
    for mask, color in masks:
        inside = mask.bool()
        drawn[:, inside] = torch.tensor(color, dtype=torch.uint8)[:, None]
        overlapping |= covered & inside
        covered |= inside
    drawn[:, overlapping] = 0
    return (canvas * (1 - opacity) + drawn * opacity).to(torch.uint8)


def _sized(image: Image.Image) -> tuple[Image.Image, float]:
    """Small images several times as large, those of very many pixels smaller, and how many times as large."""
    factor: float = max(1, round(_SMALLEST / max(image.size)))
    if image.width * image.height > _LARGEST:
        factor = math.sqrt(_LARGEST / (image.width * image.height))
    size = max(1, int(image.width * factor)), max(1, int(image.height * factor))
    picture = image if image.mode == "RGB" else image.convert("RGB")
    return picture.resize(size, Image.Resampling.BICUBIC) if size != image.size else picture, factor


def _with_legend(
    picture: Image.Image, labels: Sequence[int], names: Sequence[str], colors: Sequence[Color]
) -> Image.Image:
    if not labels:
        return picture
    square, gap = _FONT_SIZE, 6
    shown = list(labels[:_MAX_ENTRIES])
    file = font_for(names[label] for label in shown)
    font = _font(_FONT_SIZE, file)
    more = [f"and {len(labels) - _MAX_ENTRIES} more"] if len(labels) > _MAX_ENTRIES else []
    entries, left, top = [], gap, gap
    for text in [*(drawable(names[label], file) for label in shown), *more]:
        width = square + gap + round(font.getlength(text)) + 2 * gap
        if left + width > picture.width and left > gap:
            left, top = gap, top + square + gap
        entries.append((left, top, text))
        left += width
    page = Image.new("RGB", (picture.width, picture.height + top + square + 2 * gap), "white")
    page.paste(picture, (0, 0))
    pen = ImageDraw.Draw(page)
    for index, (left, top, text) in enumerate(entries):
        y = picture.height + top
        if index < len(shown):
            pen.rectangle((left, y + 1, left + square, y + 1 + square), colors[shown[index]], "black")
        pen.text((left + square + gap, y - 1), text, "black", font)
    return page


def _ink(color: Color) -> str:
    """Black or white, whichever is read more easily on a colour."""
    red, green, blue = color
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


@cache
def _font(size: int, file: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
