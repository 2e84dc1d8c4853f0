"""Random damage to checkpoints and exported files: they load, or raise a one-line error that names the file."""

from __future__ import annotations

import copy
import importlib
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

import transxnet
from helpers.exported_files import description as exported_description
from helpers.exported_files import program
from helpers.networks import first_stages, lively_dense, nano
from transxnet.checkpoints.writing import description

pytestmark = pytest.mark.slow

DAMAGES = 2000
STRANGE: list[Any] = [
    None, True, -1, 0, 1, 7, 10**9, 10**30, 0.5, -1e308, float("nan"), float("inf"), "", "x", "\x1b[31m\n", "x" * 10**5,
    [], [[]], [1] * 1000, {}, {"a": 1}, [10**9] * 4, [[[[[]]]]],
]  # fmt: skip


def broken_bytes(content: bytes, generator: random.Random) -> bytes:
    """Flip, cut, insert, overwrite or zero bytes, mostly near the start or the end."""
    data = bytearray(content)
    for _ in range(generator.choice([1, 1, 1, 2, 5])):
        near = generator.choice([len(data), 4096, 256])
        at = min(generator.randrange(near), len(data) - 1)
        at = at if generator.random() < 0.6 else len(data) - 1 - at
        length = generator.choice([1, 1, 2, 8, 100])
        match generator.randrange(6):
            case 0:
                data[at] ^= 1 << generator.randrange(8)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = generator.randbytes(length)
            case 3:
                data[at : at + length] = generator.randbytes(length)
            case 4:
                data[at : at + length] = bytes(min(length, len(data) - at))
            case 5:
                del data[at:]
        if not data:
            break
    return bytes(data)


def slots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key of a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from slots(value[key])


def broken_values(text: str, generator: random.Random) -> str:
    """Replace, remove or add values of a JSON text, or the whole text."""
    values = json.loads(text)
    if generator.random() < 0.05:
        return generator.choice(
            ["", "null", text[: generator.randrange(len(text))], "[" * 100_000, json.dumps("x" * 10**6)]
        )
    for _ in range(generator.choice([1, 1, 2, 3])):
        found = list(slots(values))
        if not found:
            break
        container, key = generator.choice(found)
        if isinstance(container, dict) and generator.random() < 0.1:
            del container[key]
        elif isinstance(container, list) and generator.random() < 0.1:
            container.append(generator.choice(STRANGE))
        else:
            container[key] = copy.deepcopy(generator.choice(STRANGE))
    return json.dumps(values)


def outcomes(load: Callable[[Path], Any], paths: Iterator[Path]) -> dict[str, int]:
    """Count how often loading succeeds and is refused; anything else fails."""
    counts = {"loaded": 0, "refused": 0}
    for path in paths:
        try:
            load(path)
            counts["loaded"] += 1
        except transxnet.TransXNetError as error:
            line = str(error)
            assert str(path) in line, line[:300]
            assert "\n" not in line and "\x1b" not in line and len(line) < 2000, line[:300]
            counts["refused"] += 1
    assert sum(counts.values()) == DAMAGES
    return counts


def small(stages: int = 1) -> transxnet.TransXNet:
    return nano(**first_stages(stages))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles(zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file, generator = small(), io.BytesIO(), random.Random(0)
    content: dict[str, Any] = {"state_dict": model.state_dict(), "transxnet": description(model), "epoch": 3}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)

    def damaged() -> Iterator[Path]:
        path = tmp_path / "broken.pth"
        for number in range(DAMAGES):
            if number % 4:
                path.write_bytes(broken_bytes(file.getvalue(), generator))
            else:
                changed = {**content, "transxnet": broken_values(content["transxnet"], generator)}
                torch.save(changed, path, _use_new_zipfile_serialization=zipped)
            yield path

    show(capsys, f"pickles, {'zip' if zipped else 'old'}", outcomes(transxnet.load_model, damaged()))


@pytest.mark.parametrize("kind", ["classifier", "retinanet", "mask_rcnn"])
def test_safetensors(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = small() if kind == "classifier" else lively_dense(kind)
    generator, path = random.Random(1), tmp_path / "broken.safetensors"
    whole = transxnet.save_model(model, tmp_path / "whole.safetensors").read_bytes()
    weights, metadata = model.state_dict(), description(model)

    def damaged() -> Iterator[Path]:
        for number in range(DAMAGES):
            if number % 2:
                path.write_bytes(broken_bytes(whole, generator))
            else:
                changed = {"format": "pt", "transxnet": broken_values(metadata, generator)}
                path.write_bytes(safetensors.torch.save(weights, changed))
            yield path

    load = transxnet.load_model if kind == "classifier" else transxnet.load_detector
    show(capsys, f"safetensors, {kind}", outcomes(load, damaged()))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_onnx(runtime: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx = importlib.import_module("onnx")
    numpy = importlib.import_module("numpy")
    generator, path = random.Random(2), tmp_path / "broken.onnx"
    metadata = exported_description().to_json()
    whole = program(metadata)

    def damaged() -> Iterator[Path]:
        for number in range(DAMAGES):
            if number % 2:
                path.write_bytes(broken_bytes(whole.SerializeToString(), generator))
            else:
                onnx.save(program(broken_values(metadata, generator)), str(path))
            yield path

    def load(file: Path) -> None:
        network = transxnet.load_exported(file, runtime)
        channels = network.description.preprocessing.get("input_size", [3])[0]
        network.run(numpy.zeros((2, channels, 40, 50), numpy.float32))

    counts = outcomes(load, damaged())
    assert capfd.readouterr() == ("", "")
    show(capfd, f"onnx in {runtime}", counts)


def show(capture: Any, title: str, counts: dict[str, int]) -> None:
    with capture.disabled():
        print(f"\n{title}: {counts}")  # noqa: T201
