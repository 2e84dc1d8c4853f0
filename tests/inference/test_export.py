"""Exported files: they compute what the network computes, have its metadata, and run instead of it."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import transxnet
from helpers.commands import run
from helpers.networks import first_stages, images, leaves, lively_dense, nano
from transxnet.errors import CheckpointError, ConfigError, DataError
from transxnet.extras import MissingExtraError
from transxnet.inference import formats
from transxnet.inference.description import FORMAT_VERSION
from transxnet.inference.export import SUFFIXES
from transxnet.inference.export_checks import check
from transxnet.model import init_weights

NAMES = [f"digit {number}" for number in range(10)]


def classifier(stages: int, **parts: str) -> transxnet.TransXNet:
    model = nano(**first_stages(stages, **parts))
    cfg = {"label_names": NAMES, "mean": (0.5, 0.4, 0.3), "input_size": (3, 64, 64)}
    vars(model)["pretrained_cfg"] = {**vars(model)["pretrained_cfg"], **cfg}
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of a network that is exported in seconds."""
    return transxnet.save_model(classifier(1), tmp_path_factory.mktemp("small") / "small.safetensors")


@pytest.fixture(scope="module")
def small_onnx(small: Path) -> Path:
    out = small.with_suffix(".onnx")
    assert run("export", small, "--format", "onnx", "--out", out) == 0
    assert sorted(small.parent.iterdir()) == [out, small]
    return out


SIZES = st.tuples(st.integers(1, 3), st.integers(32, 130), st.integers(32, 130))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_any_batch_and_size_gives_the_networks_outputs(small: Path, small_onnx: Path, runtime: Any) -> None:
    network = transxnet.load_model(small).eval()
    exported = transxnet.load_exported(small_onnx, runtime)

    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SIZES)
    def compare(size: tuple[int, int, int]) -> None:
        x = images(size[0], 3, *size[1:])
        with torch.inference_mode():
            wanted = network(x).numpy()
        (scores,) = exported.run(x.numpy())
        assert np.abs(scores - wanted).max() <= 1e-4 * np.abs(wanted).max()

    compare()


def test_a_file_has_its_metadata(small_onnx: Path) -> None:
    metadata = transxnet.load_exported(small_onnx).description
    assert (metadata.task, metadata.architecture, metadata.outputs) == ("classification", "transxnet_nano", ("scores",))
    assert (metadata.precision, metadata.opset, metadata.num_classes) == ("float32", formats.DEFAULT_OPSET, 10)
    assert metadata.class_names == tuple(NAMES)
    assert metadata.version == transxnet.__version__
    assert metadata.preprocessing["mean"] == [0.5, 0.4, 0.3] and metadata.preprocessing["input_size"] == [3, 64, 64]
    onnx = importlib.import_module("onnx")
    model = onnx.load(str(small_onnx))
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if not opset.domain] == [formats.DEFAULT_OPSET]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [bool(side.dim_param) for side in shape] == [True, False, True, True]


FORMS = [
    pytest.param("openvino", "float32", marks=pytest.mark.slow),
    pytest.param("openvino", "bfloat16", marks=pytest.mark.slow),
    pytest.param("onnx", "float16", marks=pytest.mark.slow),
    pytest.param("torch", "float32", marks=pytest.mark.slow),
    pytest.param("torch", "bfloat16", marks=pytest.mark.slow),
    pytest.param("aot", "float32", marks=pytest.mark.slow),  # compiles for a minute
]


@pytest.mark.parametrize(("form", "precision"), FORMS)
def test_every_format_passes_its_check(form: Any, precision: Any, tmp_path: Path) -> None:
    path = (tmp_path / "small").with_suffix(SUFFIXES[form])
    exported = transxnet.export(classifier(1), path, format=form, precision=precision)
    assert exported.passed and sorted(tmp_path.iterdir()) == sorted(exported.files)
    metadata = transxnet.load_exported(path, form).description
    assert (metadata.format, metadata.precision, metadata.class_names) == (form, precision, tuple(NAMES))
    assert exported.agreement is None if precision == "float32" else exported.agreement is not None
    if form == "aot":
        with pytest.raises(ConfigError, match="compiled code: if you trust"):
            transxnet.load_exported(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for name, size in (("tall", (9, 6, 3)), ("wide", (7, 13, 3))):
        values = generator.integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(values).resize((size[1] * 12, size[0] * 12)).save(folder / f"{name}.png")
    return folder


@pytest.mark.slow
def test_a_whole_segmenter_predicts_from_its_file(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = lively_dense("semantic_fpn")
    exported = transxnet.export(model, tmp_path / "dense.onnx")
    assert exported.passed and exported.description.task == "segmentation"
    weights = transxnet.save_model(model, tmp_path / "dense.safetensors")
    answers = []
    for file in (weights, exported.path):
        out = tmp_path / f"out-{file.suffix[1:]}"
        assert run("predict", pictures, "--checkpoint", file, "--json", "--min-score", 0.05, "--out", out) == 0
        answers.append(list(leaves(json.loads(capsys.readouterr().out))))
        assert (out / "tall.png").is_file()
    assert len(answers[0]) > 10
    assert [one if isinstance(one, str) else pytest.approx(one, abs=2e-3) for one in answers[0]] == answers[1]


@pytest.mark.slow
def test_features_of_a_backbone(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps.pt2"
    assert run("export", small, "--features", "--format", "torch", "--out", out) == 0
    exported = transxnet.load_exported(out, "torch")
    assert (exported.description.task, exported.description.outputs) == ("features", ("stage1",))
    backbone = transxnet.create_backbone("transxnet_nano", checkpoint=small, out_indices=(0,)).eval()
    x = images(1, 3, 75, 90)
    with torch.inference_mode():
        (wanted,) = backbone(x)
    np.testing.assert_allclose(exported.run(x.numpy())[0], wanted.numpy(), atol=1e-5)
    assert run("predict", small.parent, "--checkpoint", out, "--runtime", "torch") == 2


def test_a_file_predicts_and_is_evaluated_as_the_network(
    small: Path, small_onnx: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = np.random.default_rng(0)
    for index in range(40):
        values = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        (tmp_path / NAMES[index % 10]).mkdir(exist_ok=True)
        Image.fromarray(values).resize((64, 64)).save(tmp_path / NAMES[index % 10] / f"{index}.png")
    capsys.readouterr()
    answers, scores = [], []
    for file, runtime in ((small, ()), (small_onnx, ()), (small_onnx, ("--runtime", "openvino"))):
        assert run("predict", pictures, "--checkpoint", file, *runtime, "--json") == 0
        answers.append(list(leaves(json.loads(capsys.readouterr().out))))
        assert run("eval", "--data", tmp_path, "--checkpoint", file, *runtime, "--json") == 0
        scores.append(json.loads(capsys.readouterr().out)["top1"])
    assert "digit 3" in answers[0] or any(str(value).startswith("digit") for value in answers[0])
    for other in answers[1:]:
        assert [one if isinstance(one, str) else pytest.approx(one, abs=1e-4) for one in answers[0]] == other
    assert scores[0] == pytest.approx(scores[1], abs=0.003) == pytest.approx(scores[2], abs=0.003)


@pytest.mark.slow
def test_eight_bits_are_calibrated_and_evaluated_on_the_users_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = classifier(1)
    torch.manual_seed(0)
    model.apply(init_weights)  # calmer ones, as a trained network's are
    torch.nn.init.normal_(model.head.fc.weight)
    weights = transxnet.save_model(model, tmp_path / "calm.safetensors")
    capsys.readouterr()
    generator = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    assert run("predict", folder, "--checkpoint", weights, "--json") == 0
    for row in json.loads(capsys.readouterr().out):  # its own answers are the labels
        target = folder / row["answers"][0]["class"]
        target.mkdir(exist_ok=True)
        Path(row["image"]).rename(target / Path(row["image"]).name)
    out = tmp_path / "small8.onnx"
    command = ("export", weights, "--format", "onnx", "--precision", "int8", "--out", out)
    assert run(*command, "--calibration", tmp_path / "photos", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["accuracy"] == {"before": 1.0, "after": 1.0}
    assert printed["agreement"] == 1.0
    stored = importlib.import_module("onnx").load(printed["file"]).graph.initializer
    assert sum(tensor.data_type == importlib.import_module("onnx").TensorProto.INT8 for tensor in stored) > 10


def test_a_file_that_differs_is_kept_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = formats.write_torch
    simple = classifier(1, token_mixer="sep_conv", ffn="pointwise")
    weights = transxnet.save_model(simple, tmp_path / "simple.safetensors")

    def wrong(program: Any, path: Path, description: Any) -> None:
        program.state_dict["network.head.fc.bias"] += 1
        write(program, path, description)

    monkeypatch.setattr(formats, "write_torch", wrong)
    out = tmp_path / "exported/wrong.pt2"
    out.parent.mkdir()
    assert run("export", weights, "--format", "torch", "--out", out) == 1
    assert [path.name for path in out.parent.iterdir()] == ["wrong.unchecked.pt2"]
    printed = capsys.readouterr()
    assert printed.out.count(" differs in scores") == 5
    line = (
        r"differs from the original at 5 of 5 sizes \(scores deviates by \S+ of its largest value; up to 1e-04 passes\)"
    )
    assert re.search(line, printed.err)


def test_the_check_computes_in_float32_whatever_the_program_has_chosen(small: Path, small_onnx: Path) -> None:
    """A network whose products were rounded to bfloat16 would differ from its file."""
    network, library, used = transxnet.load_model(small).eval(), cast(Any, torch.backends.mkldnn), set()
    network.register_forward_hook(lambda *_: used.add(library.matmul.fp32_precision))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert all(one.passed for one in check(network, transxnet.load_exported(small_onnx)))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert used == {"ieee"}


@pytest.mark.slow
def test_bench_times_a_runtime(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from transxnet.research import networks

    monkeypatch.setattr(
        "transxnet.cli.bench.open_networks",
        lambda *_, **__: [networks.Network("small", "random", classifier(1), False)],
    )
    options = ("--batch-size", 1, "--rounds", 2, "--min-seconds", 0.01, "--json")
    assert run("bench", "small", "--mode", "eager", "onnx", *options) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [row["mode"] for row in rows] == ["eager", "onnx"]
    assert all(row["images_per_second"]["median"] > 0 for row in rows)


def test_mistakes_of_the_api_are_one_line(tmp_path: Path) -> None:
    model = classifier(1)
    for wrong, message in (
        (classifier(1).train(), "training mode; call .eval()"),
        (transxnet.fuse(model), "fused already"),
        (torch.nn.Linear(2, 2).eval(), "not Linear"),
        ("transxnet_nano", "export takes a network, not str"),
    ):
        with pytest.raises(ConfigError, match=message):
            transxnet.export(wrong, tmp_path / "a.onnx")  # type: ignore[arg-type]
    for choices, message in (
        ({"format": "tflite"}, "format is one of onnx, openvino, torch, aot"),
        ({"precision": "float64"}, "precision is one of"),
        ({"precision": "bfloat16"}, "onnx files hold float32, float16, int8, not bfloat16"),
        ({"format": "openvino"}, "ends in .xml"),
        ({"opset": 7}, "opset must be a whole number from 18 to 23, not 7"),
        ({"precision": "int8"}, "needs images to calibrate with"),
    ):
        with pytest.raises(ConfigError, match=message):
            transxnet.export(model, tmp_path / "a.onnx", **choices)
    with pytest.raises(ConfigError, match="format of .* is not clear"):
        transxnet.export(model, tmp_path / "a.bin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="(has|holds) no image"):
        transxnet.export(model, tmp_path / "a.onnx", precision="int8", calibration=str(tmp_path / "empty"))
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    message = r'^ONNX needs the extra "export": pip install "transxnet\[export\]" \(missing: onnxscript\)$'
    with pytest.raises(MissingExtraError, match=message):
        transxnet.export(classifier(1), tmp_path / "a.onnx")


def test_images_of_an_unsupported_size_are_refused(small_onnx: Path) -> None:
    exported = transxnet.load_exported(small_onnx)
    with pytest.raises(ConfigError, match="at least 32 x 32"):
        exported.run(np.zeros((1, 3, 31, 64), np.float32))
    with pytest.raises(ConfigError, match="in float32"):
        exported.run(np.zeros((1, 3, 64, 64)))  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".pt2"])
def test_files_that_are_not_ours_are_refused(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"broken{ending}"
    path.write_bytes(b"PK\x03\x04 half a file")
    path.with_suffix(".bin").write_bytes(b"")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert run("predict", tmp_path / "a.png", "--checkpoint", path) == 2
    line = capsys.readouterr().err
    assert "is truncated or not an exported network" in line and line.count("\n") == 1
    assert run("predict", tmp_path / "a.png", "--checkpoint", tmp_path / f"none{ending}") == 2
    assert "does not exist" in capsys.readouterr().err


def test_files_cut_short_of_another_version_or_foreign_are_refused(small_onnx: Path, tmp_path: Path) -> None:
    onnx = importlib.import_module("onnx")
    model = onnx.load(str(small_onnx))
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(small_onnx.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="is truncated or not an exported network"):
        transxnet.load_exported(cut)
    (entry,) = model.metadata_props
    entry.value = entry.value.replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 99')
    onnx.save(model, str(cut))
    with pytest.raises(CheckpointError, match=r"\(format 99\); this is transxnet .* export the network again"):
        transxnet.load_exported(cut)
    del model.metadata_props[:]
    onnx.save(model, str(cut))
    with pytest.raises(CheckpointError, match="was not written by `transxnet export`"):
        transxnet.load_exported(cut)
    with pytest.raises(ConfigError, match="a file for onnx, which torch does not run"):
        transxnet.load_exported(small_onnx, "torch")
