"""Folders for NVIDIA Triton: by its published configuration format they declare what the ONNX file has."""

from __future__ import annotations

import importlib
import importlib.util
import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

import transxnet
from helpers.commands import error_line, run
from helpers.exported_files import CLASSES, description, program
from helpers.networks import first_stages, lively_dense, nano
from transxnet.dense.head_description import HeadDescription
from transxnet.inference.description import describe
from transxnet.inference.export import Exported
from transxnet.inference.triton import model_path, write_configuration


def schema() -> Any:
    """Triton's published schema of configurations, without the gRPC that its package imports."""
    spec = importlib.util.find_spec("tritonclient")
    assert spec is not None and spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    found = importlib.util.spec_from_file_location("triton_model_config", file)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


model_config_pb2 = schema()

CLIENT = Path(__file__).parents[2] / "examples" / "triton_client.py"
NAMES = [f"digit {number}" for number in range(10)]


def parsed(folder: Path) -> Any:
    """A model's configuration, by Triton's own schema: an unknown field is an error."""
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="ascii"), model_config_pb2.ModelConfig())


def parameters(config: Any) -> dict[str, Any]:
    return {key: json.loads(value.string_value) for key, value in config.parameters.items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = nano(**first_stages(1))
    cfg = {"label_names": NAMES, "mean": (0.5, 0.4, 0.3), "input_size": (3, 64, 64), "crop_pct": 0.9}
    vars(model)["pretrained_cfg"] = {**vars(model)["pretrained_cfg"], **cfg}
    return transxnet.save_model(model, tmp_path_factory.mktemp("weights") / "small.safetensors")


def stand_in(model: Any, path: Path, **choices: Any) -> Exported:
    """Write a small file in place of the network's, which takes long to trace."""
    about = describe(model, "onnx", "float32", opset=20)
    path.parent.mkdir(parents=True)
    importlib.import_module("onnx").save(program(about.to_json()), str(path))
    return Exported(path, about, ())


@pytest.fixture(scope="module", params=["a stand-in", pytest.param("the network", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's folder in a model repository."""
    models = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "a stand-in":
            patch.setattr("transxnet.cli.export.export", stand_in)
        assert run("export", weights, "--format", "onnx", "--triton", models, "--no-check") == 0
    written = sorted(str(path.relative_to(models)) for path in models.rglob("*") if path.is_file())
    assert written == [f"transxnet_nano/{name}" for name in ("1/model.onnx", "config.pbtxt", "labels.txt")]
    return models / "transxnet_nano"


def declared(values: Sequence[Any]) -> list[tuple[str, str, list[int]]]:
    return [(value.name, model_config_pb2.DataType.Name(value.data_type), list(value.dims)) for value in values]


def held(values: Sequence[Any]) -> list[tuple[str, str, list[int]]]:
    """Names, Triton's types and sizes without the batch of an ONNX file's inputs or outputs."""
    found = []
    for value in values:
        batch, *sizes = value.type.tensor_type.shape.dim
        assert batch.dim_param and value.type.tensor_type.elem_type == importlib.import_module("onnx").TensorProto.FLOAT
        found.append((value.name, "TYPE_FP32", [-1 if size.dim_param else size.dim_value for size in sizes]))
    return found


def test_the_configuration_declares_what_the_file_has(folder: Path) -> None:
    config = parsed(folder)
    graph = importlib.import_module("onnx").load(str(folder / "1" / "model.onnx")).graph
    assert declared(config.input) == held(graph.input) == [("images", "TYPE_FP32", [3, -1, -1])]
    assert declared(config.output) == held(graph.output) == [("scores", "TYPE_FP32", [10])]
    assert (config.name, config.backend) == (folder.name, "onnxruntime")
    assert config.max_batch_size > 1 and config.HasField("dynamic_batching")
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_AUTO]
    assert (folder / config.output[0].label_filename).read_text().splitlines() == NAMES


@pytest.mark.slow  # gRPC and processes that fork do not go together, and tests after it fork
def test_the_documentations_client_answers_as_the_predictor(folder: Path, tmp_path: Path) -> None:
    from helpers.triton_server import serving

    files: list[Any] = []
    generator = np.random.default_rng(0)
    for number, size in enumerate(((120, 90), (70, 200))):
        values = generator.integers(0, 255, (7, 9, 3), dtype=np.uint8)
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(values).resize(size).save(files[-1])
    classify = runpy.run_path(str(CLIENT))["classify"]
    with serving(folder, parsed(folder)) as address:
        answers = classify(address, folder.name, folder / "labels.txt", files, top=10)
    wanted: Any = transxnet.Predictor(folder / "1" / "model.onnx", top=10)(files)
    for answer, other in zip(answers, wanted, strict=True):
        assert answer == pytest.approx(dict(zip(other.classes, other.probabilities, strict=True)), abs=1e-4)
    assert f"```py\n{CLIENT.read_text()}```" in (CLIENT.parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["retinanet", "semantic_fpn"])
def test_a_dense_networks_outputs_and_sizes_are_declared(kind: str, tmp_path: Path) -> None:
    head = HeadDescription(kind, CLASSES, 16, short=80, long=120)
    shapes: dict[str, tuple[Any, ...]] = {"scores": ("batch", "anchors", CLASSES), "codes": ("batch", "anchors", 4)}
    if kind == "semantic_fpn":
        shapes = {"scores": ("batch", CLASSES, "height", "width")}
    file = model_path(tmp_path, "dense")
    file.parent.mkdir(parents=True)
    onnx = importlib.import_module("onnx")
    about = description(task=head.task, outputs=tuple(shapes), head=vars(head))
    onnx.save(program(about.to_json(), shapes), str(file))
    assert [path.name for path in write_configuration(file, about)] == ["labels.txt", "config.pbtxt"]
    config = parsed(tmp_path / "dense")
    assert declared(config.output) == held(onnx.load(str(file)).graph.output)
    assert not config.output[0].label_filename  # its values are not one score for each class
    assert parameters(config)["short"] == 80 and parameters(config)["long"] == 120
    assert parameters(config)["task"] == head.task


def test_names_of_classes_are_a_line_each_and_go_with_their_model(tmp_path: Path) -> None:
    file = model_path(tmp_path, 'a"\\b\udcff\n')
    file.parent.mkdir(parents=True)
    names = ("one\ntwo", 'a "quoted" \\ name', "\udcff", "猫", *(f"class {number}" for number in range(4, CLASSES)))
    about = description(class_names=names, preprocessing={"mean": [0.5], "interpolation": 'bi"cubic\n'})
    importlib.import_module("onnx").save(program(about.to_json()), str(file))
    _, config = write_configuration(file, about)
    lines = (config.parent / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert lines[:4] == ["one\\ntwo", 'a "quoted" \\ name', "\\xff", "猫"] and len(lines) == CLASSES
    assert parameters(parsed(config.parent)) == {"task": "classification", **about.preprocessing}
    assert write_configuration(file, description(class_names=())) == [config]
    assert not (config.parent / "labels.txt").exists() and not parsed(config.parent).output[0].label_filename


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("onnx",), "give one of --out, a file to write, and --triton"),
        (("onnx", "--triton", "models", "--out", "a.onnx"), "give one of --out"),
        (("openvino", "--triton", "models"), "--triton writes ONNX files: give --format onnx, not openvino"),
        (("onnx", "--out", "a.onnx", "--name", "a"), "--name is the model's name in the folder of --triton"),
        (("onnx", "--triton", "models", "--name", "../a"), "a model's name is up to 100 letters"),
        (("onnx", "--triton", ""), "a path is empty"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(
    options: Sequence[str], message: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line(["export", str(weights), "--format", *options], tmp_path, capsys)


def test_a_network_of_several_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = transxnet.save_model(lively_dense("mask_rcnn"), tmp_path / "dense.safetensors")
    (tmp_path / "empty").mkdir()
    line = error_line(["export", str(weights), "--format", "onnx", "--triton", "m"], tmp_path / "empty", capsys)
    assert "Mask R-CNN is not one model to Triton" in line


@pytest.mark.parametrize("file", ["config.pbtxt", "labels.txt", "1/model.onnx"])
def test_a_model_that_exists_is_not_replaced(
    file: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "transxnet_nano" / file
    there.parent.mkdir(parents=True)
    there.write_text("words")
    assert run("export", weights, "--format", "onnx", "--triton", tmp_path) == 2
    assert f"{there} exists: give another name, or --force" in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [there]
