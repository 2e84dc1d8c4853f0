"""Training, evaluation and prediction from Python, and that the commands give the same."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import ExifTags, Image
from rich.console import Console
from torchvision.transforms.v2 import functional as V

import transxnet
from helpers.commands import paint, run
from helpers.exported_files import description, program
from helpers.networks import lively_dense, same
from transxnet import ConfigError, DataError
from transxnet.api.prediction import GivenImages
from transxnet.api.results import Classification, Detections, Segmentation
from transxnet.data.images.reading import read_image

KINDS = ("retinanet", "mask_rcnn", "semantic_fpn")
QUIET = Console(quiet=True)
SETTINGS: dict[str, Any] = {"recipe": "digits", "epochs": 1, "batch_size": 4, "ema_decay": 0.5}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "photos"
    paint(folder, 10)
    return folder


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The result of a short run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = {**SETTINGS, "augmentation": {"hflip": 0.25}}
    return transxnet.train(photos, model="transxnet_nano", out=out, console=QUIET, **settings)


@pytest.fixture(scope="module")
def predictor(trained: Any) -> transxnet.Predictor:
    return transxnet.Predictor(trained.folder, top=2)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind of detector and segmenter, with random weights."""
    folder = tmp_path_factory.mktemp("dense")
    return {kind: transxnet.save_model(lively_dense(kind), folder / f"{kind}.safetensors") for kind in KINDS}


def test_training_returns_what_the_run_folder_holds(trained: Any, photos: Path) -> None:
    assert trained.to_dict() == json.loads((trained.folder / "summary.json").read_text())
    assert (trained.epochs, trained.training_images, trained.bad_images) == (1, 16, {})
    config = yaml.safe_load((trained.folder / "config.yaml").read_text())
    assert config["data"] == str(photos)
    # The keyword takes precedence over the recipe, and leaves its other augmentations.
    assert (config["augmentation"]["hflip"], config["augmentation"]["crop_scale"]) == (0.25, [0.7, 1.0])


def test_a_finished_run_is_not_trained_again(trained: Any) -> None:
    again = transxnet.train(resume=trained.folder, console=QUIET)
    assert again == trained
    with pytest.raises(ConfigError, match=r"lr is 0.002 there, 0.5 here"):
        transxnet.train(resume=trained.folder, lr=0.5, console=QUIET)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "there is no setting 'epoch'; did you mean epochs?"),
        ({"epochs": 0}, "epochs must be a whole number from 1 to 100,000, not 0"),
        ({"augmentation": {"flip": 1}}, "there is no setting 'augmentation.flip'"),
        ({"recipe": "nope"}, "there is no recipe 'nope'"),
        ({"task": "cooking"}, "there is no task 'cooking'"),
        ({"data": "nowhere"}, "nowhere does not exist"),
        ({"model": "transxnet_tini"}, "did you mean transxnet_tiny"),
        ({"resume": "nowhere"}, "there is no run folder and no checkpoint nowhere"),
    ],
)
def test_a_mistake_in_training_is_one_line(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(transxnet.TransXNetError) as raised:
        transxnet.train(console=QUIET, **settings)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_run_is_published_with_what_it_measured(trained: Any, tmp_path: Path) -> None:
    published = transxnet.publish(trained.folder, tmp_path / "photos", license="mit")
    card = ModelCard.load(published.folder / "README.md")
    assert card.data.eval_results is not None
    assert [one.metric_value for one in card.data.eval_results] == [pytest.approx(trained.scores["top1"], abs=1e-6)]
    assert f"torch {torch.__version__.partition('+')[0]}" in card.text and "| leaf | 8 | 2 |" in card.text
    assert "1 epoch, 4 steps of 4 images" in card.text
    weights = transxnet.load_model(trained.folder).state_dict()
    assert same(transxnet.load_model(published.folder), weights)


def test_evaluation_gives_what_the_command_prints(
    trained: Any, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: list[tuple[int, int]] = []
    scores = transxnet.evaluate(
        trained.folder, photos, batch_size=8, progress=lambda done, total: counts.append((done, total))
    )
    assert counts == [(8, 20), (16, 20), (20, 20)]
    capsys.readouterr()
    assert run("eval", "--data", photos, "--checkpoint", trained.folder, "--json", "--per-class") == 0
    printed = json.loads(capsys.readouterr().out)
    ours = scores.to_dict()
    assert ours.keys() == printed.keys()
    same = ("top1", "top5", "images", "bad_images", "per_class")
    assert all(ours[name] == printed[name] for name in same)
    assert "per_class" not in scores.to_dict(per_class=False)


def test_one_image_or_several_of_any_kind(predictor: transxnet.Predictor, photos: Path) -> None:
    path = photos / "leaf/1.png"
    with Image.open(path) as image:
        image.load()
    pixels = V.pil_to_tensor(image.convert("RGB"))
    kinds: list[Any] = [path, str(path), image, np.asarray(image.convert("RGB")), pixels, pixels / 255]
    several: Any = predictor(kinds)
    assert [one.image for one in several] == [str(path)] * 2 + [f"image {index}" for index in range(2, 6)]
    for one, given in zip(several, kinds, strict=True):
        assert isinstance(one, Classification)
        assert (one.classes, one.probabilities) == (several[0].classes, several[0].probabilities)
        assert sum(one.probabilities) == pytest.approx(1)
        alone = predictor(given)
        assert isinstance(alone, Classification) and alone.classes == one.classes


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "turned"])
def test_an_opened_image_is_seen_as_its_file(mode: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 48, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(values).convert("RGB" if mode == "turned" else mode)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6 if mode == "turned" else 1
    path = tmp_path / "a.png"
    image.save(path, exif=exif)
    with Image.open(path) as opened:
        seen = GivenImages([opened]).load(0)
    expected = read_image(path)
    assert seen.size == expected.size == ((40, 48) if mode == "turned" else (48, 40))
    assert np.array_equal(np.asarray(seen), np.asarray(expected))


def test_a_predictor_works_in_another_process(
    predictor: transxnet.Predictor, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    path = photos / "rose/3.png"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        theirs: Any = pool.submit(predictor, path).result()
    ours: Any = predictor(path)
    assert theirs.classes == ours.classes and len(ours.classes) == 2
    assert theirs.probabilities == pytest.approx(ours.probabilities, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_detectors_and_segmenters_predict_what_the_command_prints(
    kind: str, dense: dict[str, Path], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = photos / "leaf/1.png"
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    found = transxnet.Predictor(dense[kind], min_score=0.0)([path, pixels])
    rows = [one.to_dict() for one in found]
    assert [rows[0].get(name) for name in ("objects", "shares")] == [
        rows[1].get(name) for name in ("objects", "shares")
    ]
    capsys.readouterr()
    assert run("predict", path, "--checkpoint", dense[kind], "--min-score", 0, "--json") == 0
    assert json.loads(capsys.readouterr().out) == [json.loads(json.dumps(rows[0]))]
    height, width = pixels.shape[:2]
    for one in found:
        if isinstance(one, Segmentation):
            assert one.classes is not None and one.classes.shape == (height, width)
            assert sum(one.shares.values()) == pytest.approx(1)
        else:
            assert isinstance(one, Detections) and len(one.classes) == len(one.boxes) == len(one.scores) > 0
            assert (one.masks is not None) == (kind == "mask_rcnn")


def test_an_exported_file_predicts(photos: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    onnx.save(program(description().to_json()), tmp_path / "a.onnx")
    predictor = transxnet.Predictor(tmp_path / "a.onnx")
    prediction = predictor(photos / "leaf/1.png")
    assert isinstance(prediction, Classification) and len(prediction.classes) == 3
    assert prediction.classes[0].startswith("class ")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.png", "nowhere.png: no such file"),
        (np.zeros((40, 40, 3)), r"image 0 is \(40, 40, 3\) of float64: give a path"),
        (np.zeros((3, 40, 40), np.uint8), r"image 0 is \(3, 40, 40\) of uint8"),
        (np.zeros((0, 40, 3), np.uint8), r"image 0 is \(0, 40, 3\) of uint8"),
        (torch.zeros(40, 40, 3), r"image 0 is a tensor of shape \(40, 40, 3\), not \(3, H, W\)"),
        (torch.full((3, 40, 40), 2.0), "image 0 has values outside 0 to 1"),
        (torch.zeros(3, 40, 40, dtype=torch.int64), "image 0 is a tensor of torch.int64"),
        (3, "image 0 is of type int: give a path"),
        ("", "a path is empty"),
    ],
)
def test_an_image_that_cannot_be_used_is_one_line(predictor: transxnet.Predictor, image: Any, message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message) as raised:
        predictor(image)
    assert "\n" not in str(raised.value)


def test_the_stream_goes_on_past_unreadable_images(predictor: transxnet.Predictor, photos: Path) -> None:
    found = [one for one, _ in predictor.stream(["nowhere.png", photos / "leaf/1.png"])]
    assert found[0].to_dict() == {"image": "nowhere.png", "error": "no such file"}
    assert not found[1].error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give --checkpoint"),
        ({"checkpoint": "nowhere.pth"}, "nowhere.pth does not exist"),
        ({"checkpoint": "a", "top": 0}, "top must be"),
        ({"checkpoint": "a", "min_score": 2}, "min_score must be"),
        ({"checkpoint": "a", "image_size": 8}, "image_size must be"),
        ({"checkpoint": "a.pth", "runtime": "onnx"}, "--runtime is for files"),
    ],
)
def test_a_mistake_in_opening_a_network_is_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(transxnet.TransXNetError, match=message) as raised:
        transxnet.Predictor(**settings)
    assert "\n" not in str(raised.value)


def test_a_device_that_is_not_there_is_one_line(trained: Any) -> None:
    with pytest.raises(ConfigError, match="there is no device 'abacus' here"):
        transxnet.Predictor(trained.folder, device="abacus")
