"""Speed and memory of networks, measured and reported."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from helpers.commands import run
from helpers.networks import images, nano
from transxnet.research.bench import Candidate, measure_speed
from transxnet.research.machine import peak_memory
from transxnet.research.modes import MODES
from transxnet.research.networks import Network


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clock of measurements counts passes through a network: one is a second."""
    count = 0

    def add(module: nn.Module, *_: Any) -> None:
        nonlocal count
        count += isinstance(module, timm.models.ResNet)

    handle = torch.nn.modules.module.register_module_forward_hook(add)
    monkeypatch.setattr("transxnet.research.bench.time", SimpleNamespace(perf_counter=lambda: float(count)))
    yield
    handle.remove()


def _twice(model: nn.Module, example: Tensor) -> Callable[[Tensor], Any]:
    return lambda given: (model(given), model(given))


def test_a_network_is_as_fast_as_itself_and_a_new_mode_is_an_entry(
    passes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(MODES, "twice", _twice)
    files = ("--csv", tmp_path / "speed.csv", "--plot", tmp_path / "speed.png")
    command = ("bench", "test_resnet", "--image-size", 32, "--batch-size", 2, "--mode", "eager", "eager", "twice")
    assert run(*command, "--rounds", 4, "--min-seconds", 0, "--json", *files) == 0
    result = json.loads(capsys.readouterr().out)
    itself, again, twice = result["results"]
    assert itself["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert again["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert twice["ratio"] == {"median": 0.5, "low": 0.5, "high": 0.5}
    assert itself["latency_ms"]["median"] == 1000 and itself["seconds"] == [1, 1, 1, 1]
    assert {"device", "threads", "torch", "timm", "transxnet"} <= set(result["machine"])
    with (tmp_path / "speed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["ratio_median"]) for row in rows] == [row["ratio"]["median"] for row in result["results"]]
    assert (tmp_path / "speed.png").stat().st_size > 10_000


@pytest.mark.parametrize("mode", ["cuda_graph", "fused_cuda_graph"])
def test_cuda_graphs_need_a_cuda_device(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "transxnet_nano", "--image-size", 32, "--mode", mode, "--device", "cpu") == 2
    printed = capsys.readouterr().err
    assert f"{mode} needs a CUDA device" in printed and len(printed.strip().splitlines()) == 1


@pytest.mark.parametrize("mode", ["eager", "channels_last", "fused"])
@torch.inference_mode()
def test_networks_compute_in_the_type_of_the_batch(mode: str) -> None:
    image = images(1, 3, 64, 64).bfloat16()
    assert MODES[mode](nano(), image)(image).dtype == torch.bfloat16


@torch.inference_mode()
def test_a_network_is_compiled_as_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []

    def compile_eagerly(self: nn.Module, **settings: Any) -> None:
        assert settings == {"dynamic": False, "fullgraph": True}

        def backend(graph: Any, example: Any) -> Any:
            graphs.append(graph)
            return graph.forward

        compile_by(self, **settings, backend=backend)

    compile_by = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    image = images(1, 3, 64, 64)
    network = nano(depths=(1, 1, 1, 1))
    expected = network(image)
    assert torch.allclose(MODES["compiled"](network, image)(image), expected, atol=1e-4)
    assert len(graphs) == 1


@pytest.mark.slow
def test_printed_speeds_of_several_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("bench", "test_efficientnet", "test_resnet", "--mode", "eager", "channels_last", "--precision", "bf16")
    sizes = ("--batch-size", 1, 2, "--image-size", 32, 48, "--rounds", 2, "--min-seconds", 0)
    assert run(*command, *sizes, "--plot", tmp_path / "speed.pdf") == 0
    printed = capsys.readouterr().out
    assert printed.count("test_resnet") == 8 and printed.count("channels_last") == 8
    assert "batch 2, 48 x 48" in printed and "PyTorch" in printed
    assert max(map(len, map(str.rstrip, printed.splitlines()))) <= 100


@pytest.mark.slow
def test_compiled_networks_give_the_same_scores() -> None:
    model, image = nano(), images(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(image)
        assert torch.allclose(MODES["compiled"](model, image)(image), expected, atol=1e-4)


def test_memory_is_the_peak_of_a_calls_tensors() -> None:
    def call() -> None:
        first = torch.zeros(1000, 1000)
        del first
        kept = torch.zeros(500, 1000), torch.zeros(250, 1000)
        assert len(kept) == 2

    assert peak_memory(call, "cpu") == 4_000_000


def test_memory_counts_the_weights() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1000, bias=False))
    model.pretrained_cfg = {"input_size": (3, 2, 2)}  # type: ignore[assignment]
    (speed,) = measure_speed([Candidate(Network("flat", "", model, False), "eager", "fp32")], 50, rounds=1)
    assert speed.memory >= 4 * (12 * 1000 + 50 * 1000)
    assert speed.memory < 6 * (12 * 1000 + 50 * 1000)
