"""Answers of the server's engine: those of the predictor, with what else is wanted, and refusals."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import transxnet
from helpers.engines import Running, has_ended, noise, stored
from helpers.exported_files import description, program
from helpers.image_files import bomb
from helpers.networks import leaves, lively_dense, nano
from transxnet.api.batches import predict_batch
from transxnet.errors import TransXNetError
from transxnet.serve import work
from transxnet.serve.answers import Answer
from transxnet.serve.engine import Engine
from transxnet.serve.faults import (
    InvalidParameterError,
    OverloadedError,
    StartingError,
    StoppingError,
    TooManyPixelsError,
    UnreadableImageError,
    UnsupportedOptionError,
    UnsupportedTypeError,
)
from transxnet.serve.settings import ServerSettings
from transxnet.serve.work import NetworkState, Wanted

DENSE = ("retinanet", "mask_rcnn", "semantic_fpn")
IMAGES = [("a.png", stored(noise(48, 40))), ("b.png", stored(noise(40, 30, 1))), ("c.png", stored(noise(48, 40, 2)))]
Opened = Callable[..., Running]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small networks of every kind."""
    folder = tmp_path_factory.mktemp("networks")
    transxnet.save_model(nano(), folder / "classifier.safetensors")
    for kind in DENSE:
        transxnet.save_model(lively_dense(kind), folder / f"{kind}.safetensors")
    (folder / "classifier.onnx").write_bytes(program(description().to_json()).SerializeToString())
    return folder


@pytest.fixture(scope="module")
def opened(files: Path) -> Iterator[Opened]:
    """``opened(name, **network)`` is a running engine, one for all tests; by default with the fused classifier."""
    running: dict[str, Running] = {}

    def open_once(name: str = "", **network: Any) -> Running:
        name, network = (name, network) if name else ("classifier.safetensors", {"fuse": True})
        key = f"{name} {network}"
        if key not in running:
            running[key] = Running(files / name, network)
        return running[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "prepares", False)
        yield open_once
    for one in running.values():
        one.__exit__()


def assert_answers(running: Running, predictor: transxnet.Predictor, exact: bool) -> None:
    """Check that images are answered as the predictor does, together and alone."""
    found = running.answers(*IMAGES)
    seconds = {"total": 0.0}
    Answer.model_validate({"task": predictor.task, "predictions": found, "seconds": seconds}, strict=False)
    alone = [running.answer(image) for image in IMAGES]
    for (name, content), *answers in zip(IMAGES, found, alone, strict=True):
        image = Image.open(io.BytesIO(content))
        prediction: Any = predictor(image)
        wanted = prediction.to_dict() | {"image": name, "width": image.width, "height": image.height}
        for result in wanted.get("results", ()):
            result["image_id"] = name
        assert wanted.get("objects") != []
        for answer in answers:
            if predictor.task == "segmentation":
                label_map = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.pop("label_map")))))
                assert np.array_equal(label_map, prediction.classes.numpy())
            if exact:
                assert answer == wanted
                continue
            for one, other in zip(leaves(answer), leaves(wanted), strict=True):
                assert one == (pytest.approx(other, abs=1e-5) if isinstance(other, float) else other)


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("classifier.safetensors", {}),
        ("classifier.safetensors", {"fuse": True}),
        *((f"{kind}.safetensors", {}) for kind in DENSE),
        ("classifier.onnx", {}),
        ("classifier.onnx", {"runtime": "openvino"}),
    ],
)
def test_answers_are_the_predictors(name: str, network: dict[str, Any], opened: Opened, files: Path) -> None:
    predictor = transxnet.Predictor(files / name, **network)
    assert_answers(opened(name, **network), predictor, exact=predictor.task != "classification")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "form"), [*((kind, "onnx") for kind in ("classifier", *DENSE)), ("classifier", "openvino")]
)
def test_answers_of_exported_files_are_the_predictors(kind: str, form: Any, tmp_path: Path) -> None:
    model = nano() if kind == "classifier" else lively_dense(kind)
    path = transxnet.export(model, tmp_path / ("a.onnx" if form == "onnx" else "a.xml"), format=form).path
    with Running(path) as running:
        predictor = transxnet.Predictor(path)
        assert_answers(running, predictor, exact=predictor.task != "classification")
        described = running.description
        assert (described.parameters, described.stages, described.name) == (None, 4, "transxnet_nano")
        with pytest.raises(UnsupportedOptionError):
            running.answer(IMAGES[0], explain="gradcam")


def test_what_is_wanted_is_each_images_own(opened: Opened) -> None:
    running = opened()
    network = nano()
    pixels = running.preparation("", Image.open(io.BytesIO(IMAGES[0][1]))).pixels
    pooled = network.forward_head(network.forward_features(pixels[None]), pre_logits=True)[0]
    answer = running.answer(IMAGES[0], top=10**6, features=True)
    assert len(answer["answers"]) == 10
    assert answer["features"] == pytest.approx(pooled.tolist(), abs=1e-4)
    few = opened("retinanet.safetensors").answer(IMAGES[0], min_score=0.8)
    assert 0 < len(few["objects"]) == len(few["results"])
    assert min(one["score"] for one in few["objects"]) >= 0.8


def test_sizes_are_those_that_a_viewer_sees(opened: Opened) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    content = stored(noise(48, 40), "JPEG", exif=exif)
    answer = opened("semantic_fpn.safetensors").answer(("turned.jpg", content))
    assert (answer["width"], answer["height"]) == (40, 48)
    assert Image.open(io.BytesIO(base64.b64decode(answer["label_map"]))).size == (40, 48)


def evidence(stage: int, pixels: Tensor, label: int) -> Any:
    """Grad-CAM of the plain network by its definition."""
    network = nano()
    maps: list[Tensor] = []
    network.stages[stage - 1].register_forward_hook(lambda module, given, output: maps.append(output))
    score = network(pixels)[0, label]
    (gradient,) = torch.autograd.grad(score, maps[0])
    weighted = (gradient.mean(dim=(2, 3), keepdim=True) * maps[0]).sum(dim=1, keepdim=True).relu()
    resized = F.interpolate(weighted, size=pixels.shape[2:], mode="bilinear")[0, 0].detach()
    return ((resized - resized.min()) / (resized.max() - resized.min())).numpy()


@pytest.mark.parametrize(("stage", "label"), [("last", ""), ("2", "3"), ("4", "CLASS 5")])
def test_a_heat_map_is_that_of_the_plain_network(stage: str, label: str, opened: Opened) -> None:
    running = opened()
    answer = running.answer(("a.png", stored(noise(96, 64))), explain="gradcam", stage=stage, label=label)
    number = 4 if stage == "last" else int(stage)
    found = answer["gradcam"]
    classes = {"": answer["answers"][0]["class"], "3": "class 3", "CLASS 5": "class 5"}
    assert (found["stage"], found["class"]) == (number, classes[label])
    pixels = running.preparation("", noise(96, 64)).pixels[None]
    values = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["png"]))))
    assert values.shape == (64, 64) and values.dtype == np.uint8
    assert np.abs(values / 255 - evidence(number, pixels, int(found["class"].split()[1]))).max() < 0.01
    if not label:
        assert found["probability"] == pytest.approx(answer["answers"][0]["probability"], abs=1e-5)
    left, top, right, bottom = found["area"]
    shown = 64 * 64 / 71  # the shorter side is resized to 71 pixels, of which 64 are shown
    assert (right - left, bottom - top) == pytest.approx((shown, shown), abs=0.5)
    assert (left + right, top + bottom) == pytest.approx((96, 64), abs=1.5)


@pytest.mark.parametrize(("fuse", "copied"), [(False, False), (True, True)])
def test_a_network_that_gives_gradients_is_not_opened_twice(fuse: bool, copied: bool, files: Path) -> None:
    state = NetworkState({"checkpoint": str(files / "classifier.safetensors"), "fuse": fuse})
    assert (state.differentiable.model is not state.predictor.network) == copied
    assert state.differentiable is state.differentiable


@pytest.mark.parametrize(("name", "count"), [("classifier", 1), ("retinanet", 0)])
def test_a_classifier_has_computed_an_image_before_it_is_ready(
    name: str, count: int, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(work, "predict_batch", lambda *given: found.append(predict_batch(*given)))
    NetworkState({"checkpoint": str(files / f"{name}.safetensors"), "fuse": False})
    assert len(found) == count


@pytest.mark.parametrize(
    ("wanted", "words"),
    [({"stage": "5"}, "stages 1 to 4"), ({"label": "clas 5"}, "did you mean"), ({"label": "x" * 10**6}, "characters")],
)
def test_heat_maps_of_unknown_classes_and_stages_are_refused(
    wanted: dict[str, str], words: str, opened: Opened
) -> None:
    with pytest.raises(InvalidParameterError, match=words) as caught:
        opened().answer(IMAGES[0], explain="gradcam", **wanted)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["semantic_fpn.safetensors", "classifier.onnx"])
@pytest.mark.parametrize("wanted", [{"explain": "gradcam"}, {"features": True}], ids=str)
def test_options_that_a_network_has_not_are_refused(name: str, wanted: dict[str, Any], opened: Opened) -> None:
    with pytest.raises(UnsupportedOptionError):
        opened(name).answer(IMAGES[0], **wanted)


_PNG = stored(noise(48, 40))


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", UnreadableImageError, "empty"),
        (b"P", UnsupportedTypeError, "PNG"),
        (b"hello" * 100, UnsupportedTypeError, "JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedTypeError, "JPEG"),
        (b"%PDF-1.7\n" + bytes(100), UnsupportedTypeError, "JPEG"),
        (b"\0\0\0\x18ftypheic" + bytes(100), UnsupportedTypeError, "JPEG"),
        (_PNG[:20], UnreadableImageError, "damaged"),
        (_PNG[:500], UnreadableImageError, "damaged"),
        (b"\xff\xd8\xff\xe0", UnreadableImageError, "damaged"),
        (b"BM", UnreadableImageError, "damaged"),
    ],
    ids=str,
)
def test_other_files_are_refused_by_their_content(content: bytes, error: Any, words: str, opened: Opened) -> None:
    with pytest.raises(error, match=words):
        opened().answer(("a.png", content))


@pytest.fixture(scope="module")
def small(files: Path) -> Iterator[Running]:
    """An engine with narrow limits."""
    limits: dict[str, Any] = {"max_megapixels": 0.01, "max_megabytes": 0.001, "max_queue": 3}
    with Running(files / "retinanet.safetensors", **limits) as running:
        yield running


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_images_with_too_many_pixels_are_refused(form: str, small: Running) -> None:
    with pytest.raises(TooManyPixelsError, match=r"101 x 100 pixels, more than 10,000; send a smaller one"):
        small.answer(("a", stored(Image.new("RGB", (101, 100)), form)))
    assert small.answer(("a", stored(Image.new("RGB", (100, 100)), form)))["width"] == 100


def test_a_bomb_is_not_decoded(small: Running, tmp_path: Path) -> None:
    bomb(tmp_path / "bomb.png")
    with pytest.raises(TooManyPixelsError):
        small.answer(("a", (tmp_path / "bomb.png").read_bytes()))


def test_the_queue_is_bounded_in_images_and_bytes(small: Running) -> None:
    image = ("a", stored(Image.new("RGB", (32, 32))))
    found = small.answers(*[image] * 5)
    assert [isinstance(one, OverloadedError) for one in found] == [False] * 3 + [True] * 2
    assert found[-1].retry_after
    large = ("large", image[1] + bytes(6000))
    found = small.answers(large, large, image)
    assert [isinstance(one, OverloadedError) for one in found] == [False, True, False]
    assert isinstance(small.answer(("alone", image[1] + bytes(9000))), dict)  # however large, if it is accepted
    assert (small.engine.pending, small.engine.waiting) == (0, 0)


def test_nothing_is_accepted_before_the_start_and_after_the_stop(files: Path) -> None:
    async def ask() -> None:
        engine = Engine({"checkpoint": str(files / "classifier.onnx")}, ServerSettings())
        for error in (StartingError, StoppingError):
            with pytest.raises(error):
                engine.check_ready()
            with pytest.raises(error) as caught:
                await engine.answer(*IMAGES[0], Wanted())
            assert caught.value.retry_after
            await engine.stop()
        with pytest.raises(TransXNetError):
            await engine.start()

    asyncio.run(ask())


@pytest.mark.parametrize("which", ["_networks", "_decoders"])
def test_an_engine_that_is_stopped_while_it_starts_leaves_nothing(which: str, files: Path) -> None:
    async def stop() -> None:
        engine = Engine({"checkpoint": str(files / "classifier.onnx")}, ServerSettings(replicas=2))
        starting = asyncio.create_task(engine.start())
        while not (processes := getattr(engine, which)) or processes[0].pid is None:
            await asyncio.sleep(0)
        pids = [process.pid for process in (*engine._networks, *engine._decoders)]
        await engine.stop()
        with pytest.raises(TransXNetError):
            await starting
        assert engine.opened is None and all(has_ended(pid) for pid in pids if pid is not None)
        assert [process.pid for process in (*engine._networks, *engine._decoders)] == [None] * len(pids)

    asyncio.run(stop())


def test_what_it_does_is_observed(opened: Opened) -> None:
    running = opened("classifier.onnx")
    running.observed.clear()
    running.answer(IMAGES[0])
    names = ["decode_seconds", "batch_size", "network_seconds", "queue_seconds"]
    assert [name for name, _ in running.observed] == names
    assert all(value > 0 for _, value in running.observed)
