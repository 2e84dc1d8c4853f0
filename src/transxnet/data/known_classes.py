"""Names and colours of a dense network's classes, those of COCO and ADE20K where its file has none."""

from __future__ import annotations

import dataclasses

from transxnet.checkpoints.reading import Checkpoint
from transxnet.checkpoints.released_dense import from_released_dense, is_released_dense
from transxnet.data.masks.classes import Colors, ade20k_classes, palette
from transxnet.dense.head_description import HeadDescription, describe_weights


def label_names_of(read: Checkpoint) -> tuple[str, ...]:
    """The classes that a detector's or segmenter's file was trained for; empty if they are not known."""
    weights = read.state_dict
    if read.head:
        return HeadDescription.from_dict(read.head, read.source).label_names
    names = from_released_dense(weights) if is_released_dense(weights) else weights
    return known_classes(describe_weights(names, read.source)).label_names


def known_classes(head: HeadDescription) -> HeadDescription:
    """The description with class names and colours; those of COCO and ADE20K where the file has none."""
    if not head.label_names and head.task == "segmentation" and head.num_classes == 150:
        head = dataclasses.replace(head, label_names=tuple(ade20k_classes()[0]), colors=_plain(ade20k_classes()[1]))
    if not head.label_names and head.task == "detection" and head.num_classes == 80:
        coco = coco_classes()
        head = dataclasses.replace(head, label_names=tuple(coco.values()), category_ids=tuple(coco))
    if not head.label_names:
        numbers = range(head.num_classes)
        head = dataclasses.replace(head, label_names=tuple(f"class {number}" for number in numbers))
    return head if head.colors else dataclasses.replace(head, colors=_plain(palette(head.num_classes)))


def coco_classes() -> dict[int, str]:
    """The names of COCO's 80 categories by their ids, from torchvision."""
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    names = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {number: name for number, name in enumerate(names) if name not in ("__background__", "N/A")}


def _plain(colors: Colors) -> tuple[tuple[int, int, int], ...]:
    return tuple((red, green, blue) for red, green, blue in colors.tolist())
