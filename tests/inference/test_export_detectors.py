"""Exported detectors: the file finds what the network finds, and Mask R-CNN's files hold together."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask
from torch import Tensor

import transxnet
from helpers.commands import run
from helpers.networks import first_stages, lively, lively_dense
from transxnet.data.coco.opening import open_coco
from transxnet.data.scenes import DIGIT_NAMES, write_scenes
from transxnet.dense.head_description import HeadDescription
from transxnet.dense.mask_rcnn import MaskRCNN
from transxnet.dense.pyramid import P6P7, EverySecondPixel, PyramidBackbone
from transxnet.dense.retinanet import RetinaNet
from transxnet.detection.evaluate import evaluate
from transxnet.errors import CheckpointError, ConfigError
from transxnet.inference import formats
from transxnet.inference.calibration import open_calibration
from transxnet.inference.description import describe
from transxnet.inference.detections import ExportedDetector
from transxnet.inference.export import SUFFIXES, Exported

KINDS = [pytest.param("retinanet", marks=pytest.mark.slow), "mask_rcnn"]
PARTS = ("", ".boxes", ".masks")
Files = Callable[[str], Path]
CHANNELS = 16


def detector(kind: str, levels: int = 1) -> Any:
    """A lively detector of digits on a block of simple parts for each level, which is exported in seconds."""
    simple = first_stages(levels, img_size=64, token_mixer="sep_conv", ffn="pointwise")
    body = transxnet.create_backbone("transxnet_nano", out_indices=range(levels), **simple)
    pyramid = PyramidBackbone(body, CHANNELS, P6P7 if kind == "retinanet" else lambda *_: EverySecondPixel())
    model = lively((RetinaNet if kind == "retinanet" else MaskRCNN)(pyramid, len(DIGIT_NAMES))).eval()
    model.architecture = "transxnet_nano"
    model.head_description = HeadDescription(
        kind, len(DIGIT_NAMES), CHANNELS, label_names=DIGIT_NAMES, proposals=30, short=80, long=120
    )
    model.transform.short, model.transform.long = 80, 120
    if isinstance(model, MaskRCNN):
        model.rpn.set_proposals(30)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """``exported(kind)`` is an ONNX file of a kind."""
    folder = tmp_path_factory.mktemp("detectors")
    names = {"retinanet": {"retinanet.onnx"}, "mask_rcnn": {f"mask_rcnn{part}.onnx" for part in PARTS}}

    @functools.cache
    def file(kind: str) -> Path:
        path = transxnet.export(detector(kind), folder / kind / f"{kind}.onnx").path
        assert {path.name for path in path.parent.iterdir()} == names[kind]
        return path

    return file


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", train=2, validation=3, size=(80, 96))


@pytest.fixture
def mask_rcnn(exported: Files, tmp_path: Path) -> Path:
    """A copy of Mask R-CNN's files."""
    for path in exported("mask_rcnn").parent.glob("mask_rcnn*"):
        shutil.copy(path, tmp_path)
    return tmp_path / "mask_rcnn.onnx"


def pictures() -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tall = torch.randint(256, (3, 90, 70), dtype=torch.uint8, generator=generator)
    wide = torch.rand(3, 50, 140, generator=generator)
    yield from ([tall], [wide], [tall, wide])


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Every detection is the other's, whatever the order of those with nearly the same score."""
    assert found.keys() == wanted.keys() and len(found["boxes"]) == len(wanted["boxes"]) > 0
    left = list(range(len(found["boxes"])))
    for box, score, label, *masks in zip(*(wanted[name] for name in wanted), strict=True):
        same = [index for index in left if found["labels"][index] == label]
        index = min(same, key=lambda index: float((found["boxes"][index] - box).abs().max()))
        left.remove(index)
        torch.testing.assert_close(found["boxes"][index], box, atol=0.02, rtol=0)
        torch.testing.assert_close(found["scores"][index], score, atol=1e-3, rtol=0)
        if masks:
            assert found["masks"].dtype == torch.bool
            assert (found["masks"][index] != masks[0]).float().mean() < 1e-3


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_finds_what_the_network_finds(kind: str, runtime: Any, exported: Files) -> None:
    model, file = detector(kind), ExportedDetector(transxnet.load_exported(exported(kind), runtime))
    for images in pictures():
        with torch.inference_mode():
            wanted, found = model(images), file(images)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "of the network"])
def test_no_proposals_and_no_detections(runtime: Any, exported: Files) -> None:
    model: Any = detector("mask_rcnn")
    if runtime != "of the network":
        model = ExportedDetector(transxnet.load_exported(exported("mask_rcnn"), runtime))
    inner = getattr(model, "detect", model)
    image = torch.zeros(3, 50, 70)
    for part, name, value in ((inner.roi_heads, "score_thresh", 1.0), (inner.rpn, "min_size", 1e6)):
        setattr(part, name, value)
        (found,) = model([image])
        shapes = {name: tuple(values.shape) for name, values in found.items()}
        assert shapes == {"boxes": (0, 4), "scores": (0,), "labels": (0,), "masks": (0, 50, 70)}


FORMS = [
    pytest.param("torch", "float32", marks=pytest.mark.slow),
    pytest.param("openvino", "float32", marks=pytest.mark.slow),
    pytest.param("openvino", "bfloat16", marks=pytest.mark.slow),
    pytest.param("openvino", "float16", marks=pytest.mark.slow),
    pytest.param("onnx", "float16", marks=pytest.mark.slow),
    pytest.param("torch", "bfloat16", marks=pytest.mark.slow),
    pytest.param("aot", "float32", marks=pytest.mark.slow),  # compiles for minutes
]


@pytest.mark.parametrize(("form", "precision"), FORMS)
def test_every_format_of_mask_rcnn_passes_its_check(form: Any, precision: Any, tmp_path: Path) -> None:
    model = detector("mask_rcnn", levels=2)
    written = transxnet.export(model, (tmp_path / "m").with_suffix(SUFFIXES[form]), format=form, precision=precision)
    assert sorted(tmp_path.iterdir()) == sorted(written.files) and len(written.files) in (3, 6)
    assert [check.part for check in written.checks] == [""] * 5 + ["boxes"] * 4 + ["masks"] * 4
    assert (written.agreement is None) if precision == "float32" else (written.agreement or 0) > 0.9
    loaded = transxnet.load_exported(written.path, form)
    metadata = loaded.description
    assert (metadata.task, metadata.outputs, metadata.strides) == (
        "detection",
        ("p2", "p3", "scores", "codes"),
        (4, 8, 16),
    )
    assert {name: part.description.outputs for name, part in loaded.parts.items()} == {
        "boxes": ("scores", "codes"), "masks": ("masks",),
    }  # fmt: skip
    (found,) = ExportedDetector(loaded)([torch.rand(3, 60, 90)])
    assert len(found["masks"]) == len(found["boxes"]) > 0
    if form == "openvino":
        written.files[2].unlink()
        with pytest.raises(CheckpointError, match=r"m\.masks\.bin is missing: it has the weights of m\.masks\.xml"):
            transxnet.load_exported(written.path)


def test_int8_is_refused(tmp_path: Path, scenes: Path) -> None:
    with pytest.raises(ConfigError, match="Mask R-CNN is not exported in int8; take float32"):
        transxnet.export(detector("mask_rcnn"), tmp_path / "m.onnx", precision="int8", calibration=str(scenes))


def test_accuracy_is_measured_on_annotated_calibration_images(exported: Files, scenes: Path, tmp_path: Path) -> None:
    model = detector("mask_rcnn")
    images = open_calibration(str(scenes), model)
    assert images.accuracy is not None and images.accuracy.metric == "mask AP" and images.count == 2
    measured = images.accuracy.before_and_after(model, transxnet.load_exported(exported("mask_rcnn")))
    assert measured is not None and measured[0] == pytest.approx(measured[1], abs=1e-3)
    written = Exported(exported("mask_rcnn"), describe(model, "onnx", "int8", 18), (), 1.0, (0.5, 0.4), "box AP")
    assert written.lines[1] == "box AP before 50.00%, after 40.00%; more than 0.5 points lost"
    (tmp_path / "plain").mkdir()
    for path in (scenes / "images" / "validation").iterdir():
        shutil.copy(path, tmp_path / "plain")
    plain = open_calibration(str(tmp_path / "plain"), model)
    assert plain.accuracy is None and "the images are not annotated for it" in plain.reason
    names = ("background", *DIGIT_NAMES)
    segmenter = transxnet.create_segmenter("semantic_fpn", backbone="transxnet_nano", num_classes=len(names))
    head = dataclasses.replace(segmenter.head_description, label_names=names, reduce_zero_label=True)
    segmenter.head_description = head
    pixels = open_calibration(str(scenes), segmenter)
    assert pixels.accuracy is not None and pixels.accuracy.metric == "mIoU"


@pytest.mark.slow
def test_a_wrong_head_keeps_all_files_from_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = formats.write_torch

    def wrong(program: Any, path: Path, description: Any) -> None:
        if description.part == "masks":
            program.state_dict["network.1.mask_fcn_logits.bias"] += 1
        write(program, path, description)

    monkeypatch.setattr(formats, "write_torch", wrong)
    with pytest.raises(transxnet.TransXNetError, match="differs from the original at 4 of 13 sizes"):
        transxnet.export(detector("mask_rcnn"), tmp_path / "m.pt2")
    assert {path.name for path in tmp_path.iterdir()} == {
        "m.unchecked.pt2", "m.unchecked.boxes.pt2", "m.unchecked.masks.pt2",
    }  # fmt: skip


def test_files_that_are_renamed_together_are_found(mask_rcnn: Path) -> None:
    for path in mask_rcnn.parent.glob("mask_rcnn*"):
        path.rename(path.with_name(path.name.replace("mask_rcnn", "v1.2")))
    assert sorted(transxnet.load_exported(mask_rcnn.with_name("v1.2.onnx")).parts) == ["boxes", "masks"]


def test_files_that_do_not_belong_together_are_refused(
    mask_rcnn: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes, masks = (mask_rcnn.with_name(f"mask_rcnn.{part}.onnx") for part in ("boxes", "masks"))

    def of_another_network() -> None:
        onnx = importlib.import_module("onnx")
        model = onnx.load(str(boxes))
        model.metadata_props[0].value = re.sub('"weights": "', '"weights": "0', model.metadata_props[0].value)
        onnx.save(model, str(boxes))

    for change, checkpoint, message in (
        (lambda: None, boxes, "holds a part of a detector; give the file that it belongs to, mask_rcnn.onnx"),
        (of_another_network, mask_rcnn, "mask_rcnn.boxes.onnx is of another export than mask_rcnn.onnx"),
        (lambda: shutil.copy(masks, boxes), mask_rcnn, "mask_rcnn.boxes.onnx is of another export"),
        (lambda: boxes.write_bytes(b"half"), mask_rcnn, "mask_rcnn.boxes.onnx (4 bytes) is truncated"),
        (boxes.unlink, mask_rcnn, "mask_rcnn.boxes.onnx is missing: it has a part of mask_rcnn.onnx; keep its files"),
    ):
        change()
        assert run("predict", scenes / "images/validation", "--checkpoint", checkpoint) == 2
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1


def test_regions_of_another_size_are_refused(exported: Files) -> None:
    masks = transxnet.load_exported(exported("mask_rcnn")).parts["masks"]
    assert masks.run(np.zeros((0, CHANNELS, 14, 14), np.float32))[0].shape == (0, 11, 28, 28)
    with pytest.raises(ConfigError, match="regions for masks are 14 x 14, not"):
        masks.run(np.zeros((2, CHANNELS, 7, 7), np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_evaluated_as_the_network(
    kind: str, exported: Files, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.json"
    capsys.readouterr()
    assert run("eval", "--data", scenes, "--checkpoint", exported(kind), "--json", "--results", out) == 0
    printed = json.loads(capsys.readouterr().out)
    evaluated = evaluate(detector(kind), open_coco(str(scenes)).validation)
    assert ("mask" in printed) == (evaluated.mask is not None) == (kind == "mask_rcnn")
    assert printed["box"] == pytest.approx(evaluated.box.scores, abs=2e-3)
    results = json.loads(out.read_text())
    assert len(results) == len(evaluated.results) > 10
    assert ("segmentation" in results[0]) == (kind == "mask_rcnn")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_detector_predicts_from_its_file(
    kind: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = transxnet.save_model(lively_dense(kind), tmp_path / "weights.safetensors")
    file = tmp_path / "exported.onnx"
    assert run("export", weights, "--format", "onnx", "--out", file, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] and len(printed["files"]) == (3 if kind == "mask_rcnn" else 1)
    assert sorted(map(str, tmp_path.glob("exported*"))) == sorted(printed["files"])
    answers = []
    for checkpoint in (weights, file):
        out = tmp_path / f"out-{checkpoint.suffix[1:]}"
        images = scenes / "images/validation"
        assert run("predict", images, "--checkpoint", checkpoint, "--min-score", 0.05, "--out", out) == 0
        assert len(list(out.glob("*.png"))) == 3
        answers.append(json.loads((out / "detections.json").read_text()))
    ours, theirs = ({name: as_found(rows, name) for name in names_of(rows)} for rows in answers)
    assert len(ours) == 3 and ours.keys() == theirs.keys()
    for name, found in ours.items():
        assert_same(theirs[name], found)


def names_of(results: list[dict[str, Any]]) -> set[str]:
    return {row["file_name"] for row in results}


def as_found(results: list[dict[str, Any]], name: str) -> dict[str, Tensor]:
    """A file's rows in COCO's results format as a detector's answer, whose boxes have widths and heights."""
    rows = [row for row in results if row["file_name"] == name]
    found = {"boxes": "bbox", "scores": "score", "labels": "category_id"}
    answer = {ours: torch.tensor([row[theirs] for row in rows]) for ours, theirs in found.items()}
    if "segmentation" in rows[0]:
        answer["masks"] = torch.stack([torch.from_numpy(mask.decode(row["segmentation"])).bool() for row in rows])
    return answer
