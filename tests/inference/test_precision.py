"""Precision and form of networks for evaluation and prediction, by device."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import transxnet
from helpers.commands import run
from helpers.image_files import picture
from helpers.networks import images, lively_dense, nano
from transxnet.data.transfers import NetworkTime, Outputs, to_host, to_network
from transxnet.dense.anchors import BestMatcher
from transxnet.dense.pixel_classes import IGNORED
from transxnet.inference import precision as module
from transxnet.inference.precision import Fusion, Precision, chooses_bfloat16, for_device, precision_of
from transxnet.segmentation.confusion import PixelConfusion, counted

KINDS = ("retinanet", "mask_rcnn", "semantic_fpn")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "classifier.safetensors"
    transxnet.save_model(nano(num_classes=2, img_size=32), path)
    return path


@pytest.mark.parametrize(
    ("precision", "device", "supported", "expected"),
    [
        ("auto", "cpu", True, False),
        ("auto", "cuda", True, True),
        ("auto", "cuda:0", False, False),
        ("32", "cuda", True, False),
        ("bf16", "cpu", False, True),
    ],
)
def test_bfloat16_is_chosen_on_a_gpu_that_has_it(
    precision: Precision, device: str, supported: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert chooses_bfloat16(precision, device) is expected


def test_a_network_on_a_cpu_is_fused_with_or_without_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def fused(given: Any, *, native: bool) -> Any:
        calls.append(native)
        return given

    monkeypatch.setattr(module, "fused", fused)
    fusions: tuple[Fusion, ...] = (None, False, True, "fold")
    for fusion in fusions:
        for_device(nano(), "cpu", fuse=fusion)
    assert calls == [True, False]
    with pytest.raises(transxnet.ConfigError, match="fuse must be"):
        for_device(nano(), "cpu", fuse=cast(Any, "native"))


def test_a_network_on_a_gpu_is_fused_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    network, calls = nano(), []

    def fused(given: Any, **settings: Any) -> Any:
        calls.append(settings)
        return given

    monkeypatch.setattr(network, "to", lambda *_: network)  # there is no GPU here
    monkeypatch.setattr(module, "fused", fused)
    for fuse in (None, True, False):
        for_device(network, "cuda", fuse=fuse, precision="32")
    assert calls == [{"channels_last": True}] * 2
    assert for_device(network, "cpu") is network


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_commands_compute_in_a_given_precision(
    command: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        picture(40, 30).save(tmp_path / label / "x.png")
    given = ("--data", tmp_path) if command == "eval" else (tmp_path,)
    found = []
    for precision in ("32", "bf16"):
        settings = ("--checkpoint", weights, "--device", "cpu", "--precision", precision, "--no-fuse", "--json")
        assert run(command, *given, *settings) == 0
        found.append(json.loads(capsys.readouterr().out))
    if command == "eval":
        assert [one["precision"] for one in found] == ["float32", "bfloat16"]
        assert found[0]["images"] == found[1]["images"] == 2
        return
    (one, *_), (other, *_) = ([row["answers"][0] for row in rows] for rows in found)
    assert one["probability"] != other["probability"]
    assert other["probability"] == pytest.approx(one["probability"], abs=0.05)


def test_an_unknown_precision_is_refused(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(40, 30).save(tmp_path / "x.png")
    assert run("predict", tmp_path / "x.png", "--checkpoint", weights, "--precision", "fp8") == 2
    printed = capsys.readouterr().err
    assert "'fp8'" in printed and "bf16" in printed and len(printed.strip().splitlines()) == 1
    with pytest.raises(transxnet.ConfigError, match="precision"):
        transxnet.Predictor(weights, precision="fp8")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_detectors_and_segmenters_run_in_bfloat16(kind: str) -> None:
    network = lively_dense(kind)
    half = for_device(lively_dense(kind), "cpu", precision="bf16")
    assert precision_of(half) == "bfloat16"
    image = (images(1, 3, 64, 96)[0] - images(1, 3, 64, 96).min()).clamp(0, 1)
    if kind == "semantic_fpn":
        scores, expected = half(image[None]), network(image[None])
        assert (scores.float() - expected).abs().mean() <= 0.05 * expected.abs().mean()
        return
    (found,), (expected,) = half([image]), network([image])
    assert found["scores"].dtype == found["boxes"].dtype == torch.float32
    assert found["scores"][:5] == pytest.approx(expected["scores"][:5], abs=0.1)


def test_outputs_are_collected_in_order() -> None:
    outputs, taken = Outputs(), NetworkTime("cpu")
    for start in range(0, 6, 2):
        with taken.running():
            outputs.add(torch.arange(start, start + 2))
    assert torch.cat(outputs.all()).tolist() == list(range(6)) and taken.seconds > 0
    network: Any = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    assert to_network(torch.zeros(1, 2), network, "cpu").dtype == torch.bfloat16
    assert to_host({"a": torch.ones(2)})["a"].tolist() == [1, 1]


def test_pixels_are_counted_as_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    classes, labels = (torch.randint(0, 7, (2, 9, 8), generator=generator) for _ in range(2))
    labels[0, :3] = IGNORED
    matrix = PixelConfusion(7, shared=False)
    matrix.update(classes, labels)
    assert torch.equal(counted(classes, labels, 7), matrix.compute())


def test_the_later_of_two_ground_truths_gets_their_best_box() -> None:
    quality = torch.tensor([[0.6, 0.1, 0.1, 0.0], [0.6, 0.2, 0.0, 0.0], [0.1, 0.1, 0.1, 0.0], [0.0, 0.35, 0.35, 0.0]])
    assert BestMatcher(0.7, 0.3, 0.3)(quality).tolist() == [1, 3, 3, -1]
