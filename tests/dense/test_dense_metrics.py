"""COCO's precision against pycocotools, and the agreement of pixels against counting."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transxnet import DataError
from transxnet.data.coco.opening import CocoSource, open_coco
from transxnet.data.scenes import write_scenes
from transxnet.dense import pixel_classes
from transxnet.detection.evaluate import SCORES, precision
from transxnet.detection.results import as_results
from transxnet.segmentation.evaluate import agreement, confusion


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> CocoSource:
    folder = write_scenes(tmp_path_factory.mktemp("scenes"), train=1, validation=24)
    return open_coco(str(folder)).validation


def guesses(source: CocoSource) -> list[dict[str, Any]]:
    """Results of a middling detector: shifted boxes, some classes wrong, some objects missed or twice."""
    generator = np.random.default_rng(0)
    results: list[dict[str, Any]] = []
    for index, image in enumerate(source.images):
        found = source.instances(index)
        keep = torch.from_numpy(generator.random(len(found.labels)) < 0.85)
        shifts = torch.from_numpy(generator.normal(0, 2, (len(found.labels), 4))).float()
        wrong = torch.from_numpy(generator.random(len(found.labels)) < 0.2)
        answer = {
            "boxes": (found.boxes + shifts)[keep],
            "labels": torch.where(wrong, (found.labels + 1) % 10, found.labels)[keep],
            "scores": torch.from_numpy(generator.random(len(found.labels))).float()[keep],
            "masks": found.masks().roll(int(generator.integers(3)), 2)[keep],
        }
        results += as_results(answer, image.id, source.category_ids)
    return results + copy.deepcopy(results[::5])


def reference(
    source: CocoSource, indices: Sequence[int], results: Sequence[dict[str, Any]], kind: Literal["bbox", "segm"]
) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = source.ground_truth()
        for annotation in truth.dataset["annotations"]:  # its masks want encoded run lengths
            annotation["segmentation"] = truth_mask(source, annotation)
        truth.createIndex()
        left_out = "bbox" if kind == "segm" else "segmentation"
        rows = [{name: value for name, value in row.items() if name != left_out} for row in copy.deepcopy(results)]
        evaluated = COCOeval(truth, truth.loadRes(rows), kind)
        evaluated.params.imgIds = [source.images[index].id for index in indices]
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return [float(value) for value in evaluated.stats]


def truth_mask(source: CocoSource, annotation: dict[str, Any]) -> Any:
    coco = COCO()
    image = next(image for image in source.images if image.id == annotation["image_id"])
    coco.imgs = {image.id: {"height": image.height, "width": image.width}}
    return coco.annToRLE(annotation)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("images", [24, 9])
def test_all_twelve_numbers_are_those_of_pycocotools(
    source: CocoSource, kind: Literal["bbox", "segm"], images: int
) -> None:
    assert any(annotation["iscrowd"] for annotation in source.ground_truth()["annotations"])
    indices, ids = range(images), {image.id for image in source.images[:images]}
    results = [result for result in guesses(source) if result["image_id"] in ids]
    ours = precision(source, indices, results, kind)
    numbers = [-1 if share is None else share for share in ours.scores.values()]  # there are no large objects
    assert numbers == pytest.approx(reference(source, indices, results, kind), abs=1e-9)
    assert 0.1 < (ours.scores["AP"] or 0) < 0.9
    present = [row[0] for row in ours.per_class if row is not None]
    assert float(np.mean(present)) == pytest.approx(ours.scores["AP"])


def test_finding_nothing_is_a_precision_of_zero(source: CocoSource) -> None:
    scores = precision(source, range(len(source)), [], "bbox").scores
    assert list(scores) == list(SCORES)
    assert scores["AP"] == scores["AR100"] == 0.0


def test_pixels_agree_as_counted_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [0, 255, 1, 2]])
    answer = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 2]])
    table = confusion(5)
    for row in range(2):  # one after the other is the same as at once
        table.update(answer[row : row + 1, None], truth[row : row + 1, None])
    evaluated = agreement(table.compute())
    assert evaluated.per_class == [
        (pytest.approx(2 / 4), pytest.approx(2 / 3)),
        (pytest.approx(2 / 4), pytest.approx(2 / 3)),
        (pytest.approx(1.0), pytest.approx(1.0)),
        (None, None),
        (None, None),
    ]
    assert evaluated.miou == pytest.approx(2 / 3)
    assert evaluated.macc == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert evaluated.aacc == pytest.approx(5 / 7)
    with pytest.raises(DataError, match="nothing to evaluate"):
        agreement(torch.zeros(3, 3))


def test_the_best_class_is_that_of_all_scores_resized_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_classes, "_AT_ONCE", 2 * 31 * 50 * 7)  # seven classes at a time
    scores = torch.randn(2, 37, 9, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        pixel_classes.classes_of(scores, (31, 50)), pixel_classes.resize(scores, size=(31, 50)).argmax(1)
    )
