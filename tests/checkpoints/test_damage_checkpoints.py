"""Random damage to files of networks: success, or one line that names the file."""

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


def broken_bytes(content: bytes, chance: random.Random) -> bytes:
    """The content with bytes flipped, cut, inserted, doubled or zeroed; most of it near the start or the end."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        near = chance.choice([len(data), 4096, 256])
        at = min(chance.randrange(near), len(data) - 1)
        at = at if chance.random() < 0.6 else len(data) - 1 - at
        length = chance.choice([1, 1, 2, 8, 100])
        match chance.randrange(6):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = chance.randbytes(length)
            case 3:
                data[at : at + length] = chance.randbytes(length)
            case 4:
                data[at : at + length] = bytes(min(length, len(data) - at))
            case 5:
                del data[at:]
        if not data:
            break
    return bytes(data)


def slots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key in what JSON holds."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from slots(value[key])


def broken_values(text: str, chance: random.Random) -> str:
    """JSON with values replaced by others, left out or added; or another text."""
    about = json.loads(text)
    if chance.random() < 0.05:
        return chance.choice(["", "null", text[: chance.randrange(len(text))], "[" * 100_000, json.dumps("x" * 10**6)])
    for _ in range(chance.choice([1, 1, 2, 3])):
        found = list(slots(about))
        if not found:
            break
        container, key = chance.choice(found)
        if isinstance(container, dict) and chance.random() < 0.1:
            del container[key]
        elif isinstance(container, list) and chance.random() < 0.1:
            container.append(chance.choice(STRANGE))
        else:
            container[key] = copy.deepcopy(chance.choice(STRANGE))
    return json.dumps(about)


def outcomes(load: Callable[[Path], Any], paths: Iterator[Path]) -> dict[str, int]:
    """How often loading succeeded and was refused; anything else fails."""
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
    model, file, chance = small(), io.BytesIO(), random.Random(0)
    content: dict[str, Any] = {"state_dict": model.state_dict(), "transxnet": description(model), "epoch": 3}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)

    def damaged() -> Iterator[Path]:
        path = tmp_path / "broken.pth"
        for number in range(DAMAGES):
            if number % 4:
                path.write_bytes(broken_bytes(file.getvalue(), chance))
            else:
                said = {**content, "transxnet": broken_values(content["transxnet"], chance)}
                torch.save(said, path, _use_new_zipfile_serialization=zipped)
            yield path

    told(capsys, f"pickles, {'zip' if zipped else 'old'}", outcomes(transxnet.load_model, damaged()))


@pytest.mark.parametrize("kind", ["classifier", "retinanet", "mask_rcnn"])
def test_safetensors(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = small() if kind == "classifier" else lively_dense(kind)
    chance, path = random.Random(1), tmp_path / "broken.safetensors"
    whole = transxnet.save_model(model, tmp_path / "whole.safetensors").read_bytes()
    weights, said = model.state_dict(), description(model)

    def damaged() -> Iterator[Path]:
        for number in range(DAMAGES):
            if number % 2:
                path.write_bytes(broken_bytes(whole, chance))
            else:
                metadata = {"format": "pt", "transxnet": broken_values(said, chance)}
                path.write_bytes(safetensors.torch.save(weights, metadata))
            yield path

    load = transxnet.load_model if kind == "classifier" else transxnet.load_detector
    told(capsys, f"safetensors, {kind}", outcomes(load, damaged()))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_onnx(runtime: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx = importlib.import_module("onnx")
    numpy = importlib.import_module("numpy")
    chance, path = random.Random(2), tmp_path / "broken.onnx"
    said = exported_description().to_json()
    whole = program(said)

    def damaged() -> Iterator[Path]:
        for number in range(DAMAGES):
            if number % 2:
                path.write_bytes(broken_bytes(whole.SerializeToString(), chance))
            else:
                onnx.save(program(broken_values(said, chance)), str(path))
            yield path

    def load(file: Path) -> None:
        network = transxnet.load_exported(file, runtime)
        channels = network.description.preprocessing.get("input_size", [3])[0]
        network.run(numpy.zeros((2, channels, 40, 50), numpy.float32))

    counts = outcomes(load, damaged())
    assert capfd.readouterr() == ("", "")
    told(capfd, f"onnx in {runtime}", counts)


def told(capture: Any, what: str, counts: dict[str, int]) -> None:
    with capture.disabled():
        print(f"\n{what}: {counts}")  # noqa: T201
