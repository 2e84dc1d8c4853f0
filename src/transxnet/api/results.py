"""Results of evaluation and prediction, with the plain values that the commands print with ``--json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from transxnet.classification.labels import readable_names
from transxnet.model import TransXNet
from transxnet.text import unicode_text

if TYPE_CHECKING:
    from transxnet.classification.evaluate import Evaluation as ClassifierEvaluation
    from transxnet.detection.evaluate import Evaluation as DetectorEvaluation
    from transxnet.detection.evaluate import Precision
    from transxnet.segmentation.evaluate import Evaluation as SegmenterEvaluation


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class.

    Attributes:
        name: The class.
        images: Number of its images.
        top1: Share of them that are classified correctly.
    """

    name: str
    images: int
    top1: float


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of a classifier.

    Attributes:
        top1: Share of the images whose most probable class is right.
        top5: Share whose class is among the five most probable; None for five classes or fewer.
        images: Number of images evaluated.
        images_per_second: Through the network, reading excluded.
        bad_images: Name and reason of each image that could not be used.
        per_class: Scores of each class that has images.
        findings: Remarks on the data set, one line each.
        precision: Type that the network computed in.
    """

    top1: float
    top5: float | None
    images: int
    images_per_second: float
    bad_images: dict[str, str]
    per_class: tuple[ClassScores, ...] = field(repr=False)
    findings: tuple[str, ...] = ()
    precision: str = "float32"

    def to_dict(self, *, per_class: bool = True) -> dict[str, Any]:
        """Plain JSON values, with or without those of each class."""
        values = {name: value for name, value in vars(self).items() if name not in ("per_class", "findings")}
        values["bad_images"] = _plain_keys(self.bad_images)
        if per_class:
            values["per_class"] = {
                unicode_text(one.name): {"images": one.images, "top1": one.top1} for one in self.per_class
            }
        return values


@dataclass(frozen=True)
class DetectionScores:
    """Scores of a detector: COCO's twelve numbers by their names ("AP", "AP50", ...), and AP and AP50 of each class.

    Attributes:
        class_names: The classes, in the order of ``per_class`` of the precisions.
        box: Average precision and recall of the boxes.
        mask: The same of the masks; None without masks.
        images: Number of images evaluated.
        images_per_second: Through the network, reading excluded.
        bad_images: Name and reason of each image that could not be used.
        detections: Every detection, in COCO's results format.
        findings: Remarks on the data set, one line each.
        precision: Type that the network computed in.
    """

    class_names: tuple[str, ...]
    box: Precision
    mask: Precision | None
    images: int
    images_per_second: float
    bad_images: dict[str, str]
    detections: list[dict[str, Any]] = field(repr=False)
    findings: tuple[str, ...] = ()
    precision: str = "float32"

    @property
    def precisions(self) -> dict[str, Precision]:
        """That of the boxes and, if there are any, of the masks."""
        return {"box": self.box} | ({"mask": self.mask} if self.mask else {})

    def to_dict(self, *, per_class: bool = True) -> dict[str, Any]:
        """Plain JSON values, with or without those of each class."""
        values: dict[str, Any] = {}
        for kind, precision in self.precisions.items():
            values[kind] = dict(precision.scores)
            if per_class:
                rows = zip(self.class_names, precision.per_class, strict=True)
                values[kind]["per_class"] = {
                    unicode_text(name): {"AP": row[0], "AP50": row[1]} for name, row in rows if row
                }
        rest = {
            "images": self.images,
            "images_per_second": self.images_per_second,
            "precision": self.precision,
            "bad_images": _plain_keys(self.bad_images),
        }
        return values | rest


@dataclass(frozen=True)
class SegmentationScores:
    """Scores of a segmenter over all pixels.

    Attributes:
        class_names: The classes, in the order of ``per_class``.
        miou: Mean intersection over union of the classes.
        macc: Mean accuracy of the classes.
        aacc: Share of all pixels that is right.
        images: Number of images evaluated.
        images_per_second: Through the network, reading excluded.
        bad_images: Name and reason of each image that could not be used.
        per_class: Intersection over union and accuracy of each class; None where there is no pixel.
        findings: Remarks on the data set, one line each.
        precision: Type that the network computed in.
    """

    class_names: tuple[str, ...]
    miou: float
    macc: float
    aacc: float
    images: int
    images_per_second: float
    bad_images: dict[str, str]
    per_class: list[tuple[float | None, float | None]] = field(repr=False)
    findings: tuple[str, ...] = ()
    precision: str = "float32"

    def to_dict(self, *, per_class: bool = True) -> dict[str, Any]:
        """Plain JSON values, with or without those of each class."""
        values: dict[str, Any] = {"mIoU": self.miou, "mAcc": self.macc, "aAcc": self.aacc}
        values |= {"images": self.images, "images_per_second": self.images_per_second, "precision": self.precision}
        if per_class:
            rows = zip(self.class_names, self.per_class, strict=True)
            values["per_class"] = {
                unicode_text(name): {"IoU": iou, "accuracy": accuracy} for name, (iou, accuracy) in rows
            }
        return values | {"bad_images": _plain_keys(self.bad_images)}


@dataclass(frozen=True)
class Classification:
    """The most probable classes of an image.

    Attributes:
        image: The image's file, or "image 0" and so on.
        classes: Names of the classes, best first.
        probabilities: Their probabilities.
        error: Why the image could not be read; empty otherwise.
    """

    image: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        image = unicode_text(self.image)
        if self.error:
            return {"image": image, "error": self.error}
        rows = zip(self.classes, self.probabilities, strict=True)
        answers = [{"class": unicode_text(name), "probability": share} for name, share in rows]
        return {"image": image, "answers": answers}


@dataclass(frozen=True)
class Detections:
    """The objects in an image, the most certain first.

    Attributes:
        image: The image's file, or "image 0" and so on.
        classes: Name of each object's class.
        labels: (n), indices of the classes.
        scores: (n).
        boxes: (n, 4), left, top, right and bottom in pixels of the image.
        masks: (n, H, W), bool; None without masks.
        coco: The objects in COCO's results format; ``image_id`` is the image's name.
        error: Why the image could not be read; empty otherwise.
    """

    image: str
    classes: tuple[str, ...]
    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor | None = field(default=None, repr=False)
    coco: list[dict[str, Any]] = field(default_factory=list, repr=False)
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        image = unicode_text(self.image)
        if self.error:
            return {"image": image, "error": self.error}
        rows = zip(self.classes, self.scores.tolist(), self.boxes.tolist(), strict=True)
        objects = [
            {"class": unicode_text(name), "score": score, "box": [round(side, 1) for side in box]}
            for name, score, box in rows
        ]
        return {"image": image, "objects": objects, "results": self.coco}


@dataclass(frozen=True)
class Segmentation:
    """The class of each pixel of an image.

    Attributes:
        image: The image's file, or "image 0" and so on.
        classes: (H, W), indices of the classes; None for an unreadable image.
        shares: Share of the pixels by class name, the largest first; without classes that have none.
        error: Why the image could not be read; empty otherwise.
    """

    image: str
    classes: Tensor | None = field(default=None, repr=False)
    shares: dict[str, float] = field(default_factory=dict)
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the shares, without the pixels."""
        image = unicode_text(self.image)
        if self.error:
            return {"image": image, "error": self.error}
        return {"image": image, "shares": _plain_keys(self.shares)}


def _plain_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    return {unicode_text(name): value for name, value in values.items()}


Prediction = Classification | Detections | Segmentation


def classification_scores(
    found: ClassifierEvaluation, network: TransXNet, findings: Sequence[str] = (), precision: str = "float32"
) -> ClassificationScores:
    """The result of a classifier's evaluation."""
    rows = zip(readable_names(network), found.counts, found.per_class, strict=True)
    per_class = tuple(ClassScores(name, count, share) for name, count, share in rows if share is not None)
    return ClassificationScores(
        found.top1,
        found.top5,
        found.images,
        found.images_per_second,
        found.bad,
        per_class=per_class,
        findings=tuple(findings),
        precision=precision,
    )


def detection_scores(
    found: DetectorEvaluation, class_names: Sequence[str], findings: Sequence[str], precision: str = "float32"
) -> DetectionScores:
    """The result of a detector's evaluation."""
    return DetectionScores(
        tuple(class_names),
        found.box,
        found.mask,
        found.images,
        found.images_per_second,
        found.bad,
        found.results,
        tuple(findings),
        precision,
    )


def segmentation_scores(
    found: SegmenterEvaluation, class_names: Sequence[str], findings: Sequence[str], precision: str = "float32"
) -> SegmentationScores:
    """The result of a segmenter's evaluation."""
    shares = found.agreement
    return SegmentationScores(
        tuple(class_names),
        shares.miou,
        shares.macc,
        shares.aacc,
        found.images,
        found.images_per_second,
        found.bad,
        shares.per_class,
        tuple(findings),
        precision,
    )
