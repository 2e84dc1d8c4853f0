"""``transxnet serve``: its options, its lines, and a server from its start to its end."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import transxnet
from helpers.commands import error_line, run
from helpers.networks import nano
from transxnet.cli import serve as command
from transxnet.errors import ConfigError
from transxnet.kernels.cpu import build
from transxnet.serve.settings import ServerSettings

GUIDE = Path(__file__).parents[2] / "docs" / "serving.md"
DEFAULT = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no network to serve: give --checkpoint"),
        (["--port", "65536"], "--port must be a whole number from 0 to 65,535, not 65536"),
        (["--max-megapixels", "200"], "--max-megapixels must be a number from 0.001 to 180, not 200"),
        (["--workers", "2"], "--workers"),
        (["--cors", "example.org"], "--cors: 'example.org' is not an origin such as https://"),
        (["--cors", "*", "https://example.org/page"], "'https://example.org/page' is not an origin"),
        (["--allowed-hosts", "https://example.org"], "--allowed-hosts: 'https://example.org' is not a name such as"),
        (["--host", ""], "--host needs a value"),
        (["--model", "transxnet_nano", "--no-fuse", "--host", "nowhere.invalid"], "cannot listen on nowhere.invalid"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line(["serve", *arguments], tmp_path, capsys)


def test_a_token_that_no_request_can_carry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSXNET_TOKEN", "two words")
    assert "TRANSXNET_TOKEN has spaces" in error_line(["serve", "--model", "transxnet_nano"], tmp_path, capsys)


def test_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        line = error_line(["serve", "--model", "transxnet_nano", "--no-fuse", "--port", str(port)], tmp_path, capsys)
    assert f"127.0.0.1 port {port}" in line and "--port" in line


class Started(SimpleNamespace):
    """What the command starts: Predictor's arguments and the settings."""

    network: dict[str, Any]
    settings: ServerSettings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    """The command does all but serving, in an empty folder."""
    found = Started()

    class Engine:
        def __init__(self, network: dict[str, Any], settings: ServerSettings) -> None:
            found.network, found.settings = network, settings
            model = SimpleNamespace(name="transxnet_nano", task="classification", classes=["a", "b"])
            self.opened = SimpleNamespace(description=model)

    async def serve(engine: Engine, settings: ServerSettings, announce: Callable[[str], None]) -> None:
        announce(DEFAULT)

    monkeypatch.setattr(command, "Engine", Engine)
    monkeypatch.setattr(command, "serve", serve)
    monkeypatch.setattr(command, "listen", lambda settings: socket.socket())
    monkeypatch.setattr(command, "_start_process", lambda: lambda: None)
    monkeypatch.setattr(build, "is_ready", lambda: True)
    monkeypatch.delenv("TRANSXNET_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    return found


def test_options_reach_the_network_and_the_server(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSXNET_TOKEN", "secret")
    network = ("--checkpoint", "a.pth", "--image-size", 96, "--precision", "bf16", "--top", 5, "--min-score", 0.25)
    server = ("--port", 0, "--max-batch", 4, "--max-wait", 1, "--cors", "https://a.org", "--cors", "http://b.org:8080")
    limits = ("--max-megabytes", 2, "--timeout", 9, "--replicas", 2, "--allowed-hosts", "a.org", "*.b.org")
    assert run("serve", *network, *server, *limits) == 0
    assert started.network == {
        "checkpoint": "a.pth", "model": None, "image_size": 96, "device": "auto", "fuse": True, "precision": "bf16",
        "runtime": None, "top": 5, "min_score": 0.25,
    }  # fmt: skip
    assert started.settings == ServerSettings(
        port=0, max_batch=4, max_wait=1, cors=("https://a.org", "http://b.org:8080"), max_megabytes=2, timeout=9,
        replicas=2, allowed_hosts=("a.org", "*.b.org"), token="secret",
    )  # fmt: skip


def test_every_setting_of_the_server_is_an_option_with_its_default(started: Started) -> None:
    assert run("serve", "--checkpoint", "a.pth") == 0
    assert started.settings == ServerSettings()
    assert {name for group in command._OPTIONS.values() for name in group} | {"token"} == set(vars(started.settings))


def test_the_network_without_a_checkpoint(started: Started, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, files in (
        ("20260101-000000-digits", ("weights.safetensors", "summary.json")),
        ("20260102-000000-digits", ("weights.safetensors", "summary.json")),
        ("20260103-000000-digits", ()),  # not finished
        ("20260104-000000-photos", ("weights.safetensors", "summary.json")),
        ("demo", ("weights.safetensors",)),
    ):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "runs" / name / file).touch()
        if name != "demo":
            (tmp_path / "runs" / name / "config.yaml").write_text("task: classification\n")
    for folder in ("runs/20260102-000000-digits", "runs/demo"):
        assert run("serve") == 0
        assert started.network["checkpoint"] == folder
        line = f"serving transxnet_nano (classification, 2 classes) from {folder} at {DEFAULT} (Ctrl-C stops it)\n"
        assert capsys.readouterr() == (line, f"opening {folder}\nstopped\n")
        (tmp_path / "runs/demo/config.yaml").write_text("task: classification\n")


@pytest.mark.parametrize(
    ("options", "compiler", "fuse", "remark"),
    [
        ((), True, True, ""),
        ((), None, True, "compiling the native kernels, which takes some seconds"),
        ((), False, "fold", "there is no usable C++ compiler for the native kernels"),
        (("--no-fuse",), False, False, ""),
        (("--fuse",), False, True, ""),
        (("--checkpoint", "a.onnx"), False, None, ""),
    ],
)
def test_how_a_network_is_fused(
    options: Sequence[str],
    compiler: bool | None,
    fuse: Any,
    remark: str,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def is_ready() -> bool:
        if compiler is False:
            raise ConfigError("there is none")
        return bool(compiler)

    monkeypatch.setattr(build, "is_ready", is_ready)
    monkeypatch.setattr(build, "library", lambda: None)
    assert run("serve", "--checkpoint", "a.pth", "--device", "cpu", *options) == 0
    assert started.network["fuse"] == fuse
    first, *remarks, last = capsys.readouterr().err.splitlines()
    assert (
        first.startswith("opening a.")
        and last == "stopped"
        and len(remarks) == bool(remark)
        and all(one.startswith(remark) for one in remarks)
    )


@pytest.mark.parametrize(
    ("host", "token", "remarks"),
    [("localhost", "", 0), ("::1", "", 0), ("0.0.0.0", "", 1), ("::", "", 1), ("0.0.0.0", "secret", 0)],
)
def test_a_server_that_others_reach_without_a_token_says_so(
    host: str,
    token: str,
    remarks: int,
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TRANSXNET_TOKEN", token)
    assert run("serve", "--checkpoint", "a.pth", "--host", host) == 0
    assert capsys.readouterr().err.count("set TRANSXNET_TOKEN to a secret") == remarks


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_network_is_opened(
    number: signal.Signals, started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def serve(*_: object) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(command, "serve", serve)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run("serve", "--checkpoint", "a.pth") == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr() == ("", "opening a.pth\nstopped\n")


def examples(language: str) -> list[str]:
    """Blocks of the guide for clients of a server at its default address."""
    chapter = GUIDE.read_text(encoding="utf-8").partition("\n## From programs\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", chapter, re.DOTALL | re.MULTILINE)


def use(line: str) -> dict[str, Any]:
    """Read the address from the command's line, and send what the guide sends there; returns a prediction."""
    assert re.fullmatch(r"serving \w+ \(classification, 2 classes\) at \S+ \(Ctrl-C stops it\)\n", line)
    (address,) = re.findall(r"at (http://\S+)", line)
    assert all(map(examples, ("py", "js", "console")))
    for code in examples("py"):
        Path("client.py").write_text(code.replace(DEFAULT, address))
        runpy.run_path("client.py")
    for code in examples("js") if shutil.which("node") else ():
        Path("client.mjs").write_text(code.replace(DEFAULT, address))
        subprocess.run(["node", "client.mjs"], check=True, capture_output=True, timeout=60)
    for command_line in "".join(examples("console")).replace("\\\n", "").splitlines():
        if command_line.startswith("curl ") and shutil.which("curl"):
            words = shlex.split(command_line.replace(DEFAULT, address), comments=True)
            done = subprocess.run([*words, "--fail"], capture_output=True, timeout=60, check=False)
            assert done.returncode == 0, (command_line, done.stdout, done.stderr)
    image = Path("cat.jpg").read_bytes()
    request = urllib.request.Request(f"{address}/predict", image, {"Content-Type": "image/jpeg"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        found: dict[str, Any] = json.load(reply)["predictions"][0]
    return found


def test_a_server_and_the_guide_s_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    network = nano(num_classes=2)
    vars(network)["pretrained_cfg"] |= {"label_names": ["leaf", "rose"], "input_size": (3, 64, 64)}
    transxnet.save_model(network, "nano.safetensors")
    for name in ("cat.jpg", "dog.jpg"):
        Image.effect_noise((80, 60), 80).convert("RGB").save(name)
    theirs, ours = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), "rw", strict=True))

    def be_a_client() -> dict[str, Any]:
        line = theirs.readline()
        assert line, "the server did not start"
        try:
            return use(line)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with theirs, ThreadPoolExecutor(1) as pool:
        client = pool.submit(be_a_client)
        with ours, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", ours)
            status = run("serve", "--checkpoint", "nano.safetensors", "--port", 0)
        found = client.result()
    assert (status, capsys.readouterr().err) == (0, "opening nano.safetensors\nstopped\n")
    expected: Any = transxnet.Predictor("nano.safetensors")("cat.jpg")
    assert [one["class"] for one in found["answers"]] == list(expected.classes)
    assert [one["probability"] for one in found["answers"]] == pytest.approx(expected.probabilities, abs=1e-4)
