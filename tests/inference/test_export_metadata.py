"""Exported files whose metadata contradicts their content: one line that names the file."""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transxnet
from helpers.exported_files import CLASSES, NORMAL, description, program
from helpers.forked import outcomes
from transxnet.errors import CheckpointError
from transxnet.inference import formats
from transxnet.inference.adapters import ExportedNetwork
from transxnet.inference.description import Description

HUGE = 10**9
DEEP = "[" * 100_000


def changed(**values: Any) -> str:
    return json.dumps({**json.loads(description().to_json()), **values})


def preprocessed(**values: Any) -> str:
    return changed(preprocessing={**NORMAL, **values})


def dense(kind: str, **values: Any) -> str:
    """Metadata of a detector's or segmenter's file."""
    head = {"kind": kind, "num_classes": CLASSES, "pyramid_channels": 16, **values.pop("head", {})}
    given = {"task": "detection", "class_names": [], "outputs": ["scores", "codes"], "strides": [8, 16, 32]} | values
    return changed(head=head, **given)


METADATA: dict[str, tuple[str | None, str]] = {
    "none": (None, "was not written by `transxnet export`"),
    "a list": ("[]", "it is not a JSON object"),
    "a number": ("7", "it is not a JSON object, but 7"),
    "null": ("null", "it is not a JSON object, but null"),
    "half": ('{"task"', "cannot be read"),
    "deep": (DEEP, "it is nested too deeply"),
    "deep inside": ('{"format_version": 1, "task": ' + DEEP, "it is nested too deeply"),
    "long": ('"' + "x" * 2**24 + '"', "it has more than 16,777,216 characters"),
    "no version": ("{}", "it lacks 'format_version'"),
    "a version": (changed(format_version=[1], version={}), r"was exported by transxnet a mapping .*\(format \[1\]\)"),
    "no task": (json.dumps({"format_version": 1}), "it lacks 'task'"),
    "task": (changed(task="translation"), "task must be one of classification"),
    "task of a list": (changed(task=[]), "task must be one of"),
    "format": (changed(format=7), "format must be one of"),
    "another format": (changed(format="torch"), "is a file for onnx, but its description gives torch"),
    "precision": (changed(precision="int4"), "precision must be one of"),
    "outputs": (changed(outputs=None), "outputs must be a list"),
    "many outputs": (changed(outputs=["x"] * 10**5), "outputs are too many"),
    "outputs of numbers": (changed(outputs=[1]), "outputs must be text"),
    "other outputs": (changed(outputs=["logits"]), "its outputs must be scores"),
    "classes": (changed(num_classes=HUGE, class_names=[]), "num_classes must be a whole number from 0 to 1,000,000"),
    "other classes": (changed(num_classes=11, class_names=[]), r"scores is \(any, 11\), but in the file it is"),
    "classes of text": (changed(num_classes="10"), "num_classes must be a whole number"),
    "names": (changed(class_names=["a"]), "class_names must be a list of 0 or 10 values"),
    "names of numbers": (changed(class_names=[1] * CLASSES), r"class_names\[0\] must be text"),
    "strides": (changed(strides=["4"]), "strides must be a whole number"),
    "parts": (changed(parts=["boxes"]), r"its parts cannot be \['boxes'\]"),
    "part": (changed(part="../boxes"), "part must be one of"),
    "boxes": (changed(part="boxes", outputs=["scores", "codes"]), "it cannot be the part boxes"),
    "opset": (changed(opset=HUGE), "opset must be"),
    "architecture": (changed(architecture="x" * 10**6), "architecture has more than 200 characters"),
    "weights": (changed(weights=None), "weights must be text"),
    "an unknown field": (changed(anchors=3), "unexpected keyword argument 'anchors'"),
    "head": (changed(head=[1]), "head must be an object"),
    "a classifier's head": (changed(head={"kind": "retinanet"}), "a file for classification has no head"),
    "preprocessing": (changed(preprocessing=[]), "the preprocessing must be a mapping"),
    "size": (preprocessed(input_size=[3, HUGE, HUGE]), "the height in input_size must be"),
    "size of null": (preprocessed(input_size=[None, 64, 64]), "input_size must be a whole number"),
    "channels": (preprocessed(input_size=[4, 64, 64]), r"images is \(any, 4, any, any\), but in the file"),
    "mean": (preprocessed(mean="grey"), "mean must be a list"),
    "deviation": (preprocessed(std=[0, 0, 0]), "std must be a number from"),
    "interpolation": (preprocessed(interpolation={}), "interpolation must be one of"),
    "crop": (preprocessed(crop_pct=1e-30), "crop_pct must be a number"),
    "segmenter": (dense("semantic_fpn", task="segmentation", outputs=["scores"], strides=[]),
                  r"scores is \(any, 10, any, any\), but in the file it is \(any, 10\)"),
    "detector": (dense("retinanet"), "has 1 outputs, but its description gives 2"),
    "a detector's strides": (dense("retinanet", strides=[8, 16, 24]), "strides of a detector are powers of two"),
    "a detector's huge strides": (dense("retinanet", strides=[2**40, 2**41]), "strides must be a whole number"),
    "a detector's one stride": (dense("retinanet", strides=[8]), "strides of a detector"),
    "a detector's kind": (dense("semantic_fpn"), "its head is a semantic_fpn of 10 classes, for detection"),
    "a detector's classes": (dense("retinanet", num_classes=9), "its head is a retinanet of 10 classes, for detection"),
    "a detector's names": (dense("retinanet", class_names=["a"] * CLASSES), "are not those of its head"),
    "a detector's size": (dense("retinanet", head={"short": HUGE}), "short must be a whole number"),
    "a detector's colours": (dense("retinanet", head={"colors": [[0, 0, 0]]}), "colors must be a list of 0 or 10"),
    "a detector's proposals": (dense("mask_rcnn", head={"proposals": HUGE}), "proposals must be"),
    "a detector's parts": (dense("mask_rcnn", outputs=["p3", "p4", "scores", "codes"]), r"its parts cannot be \[\]"),
    "a detector's head": (dense("retinanet", head={"anchors": 3}), "a head has no 'anchors'"),
    "no head": (changed(task="detection"), "a file for detection has a head"),
    "features": (changed(task="features", outputs=["scores"], strides=[]), "its 1 outputs have 0 strides"),
}  # fmt: skip


def test_metadata_is_compared_with_the_file(tmp_path: Path) -> None:
    onnx = importlib.import_module("onnx")
    models = {name: (program(metadata), message) for name, (metadata, message) in METADATA.items()}
    metadata = description().to_json()
    models |= {
        "input": (program(metadata, name="pictures"), r"gives images in float32 among its inputs, not 'pictures'"),
        "output": (program(metadata, {"logits": ("batch", CLASSES)}), "gives scores in float32 among its outputs, not"),
        "more outputs": (program(metadata, {"scores": ("batch", 10), "more": ("batch", 10)}), "has 2 outputs, but"),
        "grey": (program(metadata, channels=1), r"images is \(any, 3, any, any\), but in the file it is \(any, 1"),
    }
    files = [tmp_path / f"{name}.onnx" for name in models]
    for path, (model, _) in zip(files, models.values(), strict=True):
        onnx.save(model, str(path))
    good = tmp_path / "good.onnx"
    onnx.save(program(metadata), str(good))
    *lines, last = outcomes([("load_exported", {"path": str(path)}) for path in (*files, good)])
    assert last == ""
    for path, (_, message), line in zip(files, models.values(), lines, strict=True):
        assert line.startswith(str(path)) and "\n" not in line and len(line) < 1000, (path.name, line[:300])
        assert re.search(message, line), (path.name, line)


def test_onnx_of_other_programs_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx = importlib.import_module("onnx")
    helper, metadata = onnx.helper, description().to_json()
    models = {name: program(metadata) for name in ("huge", "short", "missing", "outside", "operator")}
    for name, location in (("missing", "weights.bin"), ("outside", "../../../etc/passwd")):
        weight = models[name].graph.initializer[0]
        onnx.external_data_helper.set_external_data(weight, location)
        weight.ClearField("raw_data")
        weight.data_location = 1
    del models["huge"].graph.initializer[0].dims[:]
    models["huge"].graph.initializer[0].dims.extend([10**5, 10**5])
    models["huge"].graph.initializer[0].ClearField("raw_data")
    models["short"].graph.initializer[0].raw_data = b"1234"
    models["operator"].graph.node[0].domain = "somebody.else"
    foreign = program(None)
    entry = foreign.metadata_props.add()
    entry.key, entry.value = "transxnet", "x"
    content = {name: model.SerializeToString() for name, model in models.items()}
    content["letters"] = foreign.SerializeToString().replace(b"transxnet\x12\x01x", b"transxnet\x12\x01\xff")
    content["none of ours"] = helper.make_model(helper.make_graph([], "empty", [], [])).SerializeToString()
    content |= {"empty": b"", "text": b"<html>"}
    for name, text in content.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(text)
        for runtime in ("onnx", "openvino"):
            with pytest.raises(CheckpointError) as caught:
                transxnet.load_exported(path, runtime)
            assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_outputs_are_compared_with_the_metadata(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx = importlib.import_module("onnx")
    path = tmp_path / "free.onnx"
    images = np.zeros((2, 3, 40, 50), np.float32)
    every = onnx.numpy_helper.from_array(np.ones(CLASSES, bool), "every")
    for outputs, metadata, message in (
        ({"scores": ("a", "b")}, changed(num_classes=12, class_names=[]), r"gave \(2, 10\) for \(2, 3, 40, 50\), but"),
        (
            {"scores": ("a", "b", "c", "d")},
            dense("semantic_fpn", task="segmentation", outputs=["scores"], strides=[]),
            r"scores is \(any, 10, any, any\), but in the file it is \(any, 3",
        ),
    ):
        model = program(metadata, outputs)
        if len(outputs["scores"]) == 4:
            del model.graph.node[1]
            model.graph.node[1].CopyFrom(onnx.helper.make_node("Identity", ["images"], ["scores"]))
        else:  # the number of classes is open until it runs
            model.graph.node[2].output[0] = "all"
            model.graph.node.append(onnx.helper.make_node("Compress", ["all", "every"], ["scores"], axis=1))
            model.graph.initializer.append(every)
        onnx.save(model, str(path))
        with pytest.raises(CheckpointError, match=message):
            transxnet.load_exported(path).run(images)
    broken = program(description().to_json())
    broken.graph.node[0].CopyFrom(onnx.helper.make_node("Slice", ["images", *"abcd"], ["mean"]))
    numbers = {"a": [0, 0], "b": [1, 1], "c": [0, 1], "d": [1, 1]}
    for name, values in numbers.items():
        broken.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values), name))
    onnx.save(broken, str(path))
    with pytest.raises(CheckpointError, match=r"free\.onnx gave|free\.onnx cannot be run on \(2, 3, 40, 50\)"):
        transxnet.load_exported(path).run(images)
    nothing = program(description().to_json())
    nothing.graph.initializer[0].raw_data = np.full((3, CLASSES), np.nan, np.float32).tobytes()
    onnx.save(nothing, str(path))
    with pytest.raises(CheckpointError, match="gave values that are NaN or infinite"):
        transxnet.load_exported(path).run(images)
    assert capfd.readouterr() == ("", "")


def test_a_file_without_a_size_is_run_at_the_usual_one(tmp_path: Path) -> None:
    importlib.import_module("onnx").save(program(changed(preprocessing={})), str(tmp_path / "a.onnx"))
    network = ExportedNetwork(transxnet.load_exported(tmp_path / "a.onnx"))
    assert network.pretrained_cfg["input_size"] == (3, 224, 224)


def test_openvino_files_that_contradict_themselves(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.xml"
    onnx = importlib.import_module("onnx")
    onnx.save(program(None), str(tmp_path / "plain.onnx"))

    def write(metadata: Description) -> None:
        formats.write_openvino(tmp_path / "plain.onnx", path, metadata)

    write(description("openvino"))
    xml, weights = path.read_text(), path.with_suffix(".bin")
    assert transxnet.load_exported(path).description.num_classes == CLASSES

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as caught:
            transxnet.load_exported(path)
        assert "\n" not in str(caught.value)

    path.write_text(xml.replace('size="120"', 'size="40000000000"').replace("3,10", "1000000000,10"))
    refused("truncated or not an exported network|but in the file")
    path.write_text(xml.replace("num_classes", "number"))
    refused("its metadata cannot be read")
    write(description("openvino", num_classes=11, class_names=()))
    refused(r"scores is \(any, 11\), but in the file it is \(any, 10\)")
    write(description("onnx"))
    refused("is a file for openvino, but its description gives onnx")
    for text in ("", "<html>", xml[:1000]):
        path.write_text(text)
        refused("truncated or not an exported network")
    assert capfd.readouterr() == ("", "")
    weights.unlink()
    refused(r"a\.bin is missing: it has the weights of a\.xml")
    os.mkfifo(weights)
    refused("it is a pipe or a device")
    path.unlink()
    os.mkfifo(path)
    refused("it is a pipe or a device")


def test_a_signal_after_openvino_files_were_closed(tmp_path: Path) -> None:
    """On processors with AMX, OpenVINO changes the stack that signals are handled on; a stale one ends the process."""
    path = tmp_path / "a.onnx"
    importlib.import_module("onnx").save(program(description().to_json()), str(path))
    first, second = (transxnet.load_exported(path, "openvino") for _ in range(2))
    del first
    gc.collect()
    del second
    gc.collect()
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert received == [signal.SIGUSR1]
