"""The network computes what the released code computed, to float32 rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import transxnet
from golden import fixture
from helpers.networks import VANISHING, difference, golden, images
from transxnet.checkpoints.released import rename


@pytest.fixture(scope="module")
def classifier(released: Callable[..., dict[str, Tensor]]) -> transxnet.TransXNet:
    return transxnet.create_model("transxnet_tiny", checkpoint=released("tiny")).eval()


@pytest.mark.parametrize("shape", [(2, 3, 224, 224), (1, 3, 256, 192)])
def test_logits(classifier: transxnet.TransXNet, shape: tuple[int, ...]) -> None:
    expected = golden(f"tiny_logits_{'x'.join(map(str, shape))}")["logits"]
    with torch.inference_mode():
        logits = classifier(images(*shape)).numpy()
    assert logits.shape == expected.shape
    assert difference(logits, expected) <= 2e-5


@pytest.fixture(scope="module")
def dense_maps(released: Callable[..., dict[str, Tensor]]) -> list[np.ndarray]:
    backbone = transxnet.create_backbone("transxnet_tiny", checkpoint=released("tiny", "backbone")).eval()
    with torch.inference_mode():
        return [output.numpy() for output in backbone(images(1, 3, 256, 320))]


@pytest.mark.parametrize("stage", range(4))
def test_dense_maps(dense_maps: list[np.ndarray], stage: int) -> None:
    expected = golden("tiny_features_1x3x256x320")
    output, sample, std = dense_maps[stage], expected[f"sample{stage}"], expected[f"std{stage}"]
    assert output.shape == tuple(expected[f"shape{stage}"])
    assert difference(fixture.sample(output, len(sample)), sample) <= 2e-5
    assert abs(output.mean(dtype=np.float64) - expected[f"mean{stage}"]) <= 2e-5 * std
    assert abs(output.std(dtype=np.float64) - std) <= 2e-5 * std


@pytest.fixture(scope="module")
def training_pass(released: Callable[..., dict[str, Tensor]]) -> tuple[transxnet.TransXNet, np.ndarray]:
    model = transxnet.create_model("transxnet_tiny", checkpoint=released("tiny")).train()
    logits = model(images(4, 3, 224, 224))
    (logits * torch.from_numpy(fixture.probe(tuple(logits.shape)))).sum().backward()
    return model, logits.detach().numpy()


@pytest.fixture(scope="module")
def expected_pass() -> dict[str, Any]:
    return golden("tiny_gradients_4x3x224x224")


def entries(expected: dict[str, Any], kind: str) -> dict[str, Any]:
    return {key.removeprefix(kind): value for key, value in expected.items() if key.startswith(kind)}


def test_training_logits(training_pass: tuple[transxnet.TransXNet, np.ndarray], expected_pass: dict[str, Any]) -> None:
    assert difference(training_pass[1], expected_pass["logits"]) <= 2e-5


def test_gradients(training_pass: tuple[transxnet.TransXNet, np.ndarray], expected_pass: dict[str, Any]) -> None:
    parameters = dict(training_pass[0].named_parameters())
    samples, norms = entries(expected_pass, "grad/"), entries(expected_pass, "norm/")
    assert {rename(name) for name in samples} == {rename(name) for name in norms} == set(parameters)
    wrong = []
    for name, sample in samples.items():
        gradient = parameters[rename(name)].grad
        assert gradient is not None
        norm = float(gradient.double().norm())
        if name.endswith(VANISHING):
            agrees = norm < 1e-3
        else:
            agrees = difference(fixture.sample(gradient.numpy(), len(sample)), sample) <= 2e-3
            agrees = agrees and abs(norm - norms[name]) <= 2e-3 * norms[name]
        if not agrees:
            wrong.append(name)
    assert wrong == []


def test_running_statistics(
    training_pass: tuple[transxnet.TransXNet, np.ndarray], expected_pass: dict[str, Any]
) -> None:
    buffers = {name: buffer.numpy() for name, buffer in training_pass[0].named_buffers() if "running" in name}
    samples = {rename(name): sample for name, sample in entries(expected_pass, "buffer/").items()}
    assert set(samples) == set(buffers)
    differences = {name: difference(fixture.sample(buffers[name], len(s)), s) for name, s in samples.items()}
    assert {name: d for name, d in differences.items() if d > 2e-5} == {}
