"""The documentation's deployment on Ray Serve answers as the server does, from both of its replicas."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import transxnet
from helpers import __file__ as helpers
from helpers.networks import nano

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "examples" / "ray_serve.py"
RAY_PYTHON = os.environ.get("RAY_PYTHON", sys.executable)
"""The Python in which Ray is installed: it brings many packages, which may need an environment of their own."""


def test_the_documentation_shows_the_program() -> None:
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert f"```py\n{PROGRAM.read_text(encoding='utf-8')}```" in page


class Answer(NamedTuple):
    status: int
    content: dict[str, Any]
    replica: str | None


def post(port: int, body: bytes) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/predict", body, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        return Answer(response.status, json.loads(response.read()), response.headers.get("X-Replica"))
    finally:
        connection.close()


def end_input(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()


@contextmanager
def announced(
    command: list[str], folder: Path, end: Callable[[subprocess.Popen[str]], None], **environment: str
) -> Iterator[int]:
    """The port of a server, once it has printed it."""
    folder.mkdir()
    source = {"PYTHONPATH": str(ROOT / "src"), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder,
            env={**os.environ, **source, **environment},
        )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        found = next(
            (one for line in process.stdout if (one := re.search(r" at http://127\.0\.0\.1:(\d+)", line))), None
        )
        assert found, (folder / "log").read_text()[-3000:]
        yield int(found[1])
    finally:
        try:
            end(process)
            process.wait(timeout=60)
        finally:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                pipe.close()


@pytest.fixture
def pictures() -> list[bytes]:
    generator = np.random.default_rng(0)
    files = []
    for number in range(12):
        values = generator.integers(0, 255, (5, 7, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(values).resize((70 + number, 50)).save(file, "JPEG")
        files.append(file.getvalue())
    return files


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_replicas_answer_as_the_server(tmp_path: Path, pictures: list[bytes]) -> None:
    there = subprocess.run([RAY_PYTHON, "-c", "import ray.serve"], capture_output=True, check=False)
    assert not there.returncode, (
        f'{RAY_PYTHON} has no Ray: pip install "ray[serve]>=2.54" there, or set RAY_PYTHON to a Python that has it'
    )
    checkpoint = transxnet.save_model(nano(), tmp_path / "nano.safetensors")
    driver = [RAY_PYTHON, str(Path(helpers).with_name("ray_driver.py")), str(PROGRAM.parent)]
    replicas: set[str | None] = set()
    deployment = announced(driver, tmp_path / "ray", end_input, CHECKPOINT=str(checkpoint))
    with deployment as port, ThreadPoolExecutor(8) as threads:
        for _ in range(10):
            answers = list(threads.map(lambda body: post(port, body), pictures))
            replicas |= {answer.replica for answer in answers}
            if len(replicas) == 2:
                break
        bad = post(port, pictures[0][:-100])
    assert len(replicas) == 2 and None not in replicas
    server = [sys.executable, "-m", "transxnet", "serve", "--checkpoint", str(checkpoint), "--port", "0"]
    with announced(server, tmp_path / "server", subprocess.Popen.terminate) as port:
        wanted = [post(port, body) for body in pictures]
        refused = post(port, pictures[0][:-100])
    predictor = transxnet.Predictor(checkpoint, fuse=True)
    for body, answer, other in zip(pictures, answers, wanted, strict=True):
        assert answer.status == other.status == 200 and answer.content["seconds"]["total"] > 0
        (ours,), (theirs,) = answer.content["predictions"], other.content["predictions"]
        assert answer.content["task"] == other.content["task"] and ours.keys() == theirs.keys()
        assert [ours[name] for name in ("image", "width", "height")] == [
            theirs[name] for name in ("image", "width", "height")
        ]
        one: Any = predictor(Image.open(io.BytesIO(body)))
        for answers_of in (ours["answers"], theirs["answers"]):
            assert tuple(row["class"] for row in answers_of) == one.classes
            assert [row["probability"] for row in answers_of] == pytest.approx(one.probabilities, abs=1e-5)
    assert bad.status == refused.status == 422
    assert bad.content["error"]["code"] == refused.content["error"]["code"] == "unreadable-image"
