"""Checkpoints from URLs: cached per URL, and verified."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.errors
import pytest
import timm
import torch

import transxnet
from helpers.networks import nano
from transxnet import CheckpointError
from transxnet.checkpoints.downloads import download


class Server:
    """A web server of files.

    Attributes:
        files: Contents by path.
        cut: Bytes missing at the end of each response.
        requests: Requested paths.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut = 0
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Answer, self))
        self.thread = threading.Thread(target=self.server.serve_forever)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{path}"


class Answer(BaseHTTPRequestHandler):
    def __init__(self, site: Server, *arguments: object) -> None:
        self.site = site
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.site.requests.append(self.path)
        content = self.site.files.get(self.path.partition("?")[0].removeprefix("/"))
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - self.site.cut])

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (of the class)
        pass


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    server.thread.start()
    yield server
    server.server.shutdown()
    server.thread.join()
    server.server.server_close()


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_two_urls_with_one_base_name_are_two_files(site: Server, tmp_path: Path) -> None:
    for classes in (2, 3):
        path = transxnet.save_model(nano(num_classes=classes), tmp_path / "weights.safetensors")
        site.files[f"{classes}/weights.safetensors"] = path.read_bytes()
    for classes in (2, 3, 2):
        assert transxnet.load_model(site.url(f"{classes}/weights.safetensors")).num_classes == classes
    assert len(site.requests) == 2
    assert cached(tmp_path) == sorted(["weights.safetensors", "weights.safetensors.sha256"] * 2)


@pytest.mark.parametrize("query", ["", "?version=1"])
def test_a_damaged_cached_file_is_downloaded_again(site: Server, query: str) -> None:
    site.files["a.pth"] = b"content"
    path = download(site.url(f"a.pth{query}"))
    path.write_bytes(b"contenT")
    assert download(site.url(f"a.pth{query}")).read_bytes() == b"content"
    path.with_name("a.pth.sha256").unlink()  # ended before it was written
    assert download(site.url(f"a.pth{query}")) == path
    assert len(site.requests) == 3
    site.server.shutdown()
    assert download(site.url(f"a.pth{query}")) == path


def test_a_download_that_ends_early_is_not_cached(site: Server, tmp_path: Path) -> None:
    site.files["a.pth"] = b"content"
    site.cut = 2
    with pytest.raises(CheckpointError, match=r"the connection ended after 5 of 7 bytes; try again"):
        download(site.url("a.pth"))
    assert cached(tmp_path) == []
    with pytest.raises(CheckpointError, match=r"could not download http\S+/b.pth \(Not Found\); without a network"):
        download(site.url("b.pth"))


def test_a_digest_in_the_name_is_compared(site: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    names = f"a-{digest[:8]}.pth", f"a-{digest}.tar.pth", "transx-b-384.pth.tar", "a-0123abcd.pth"
    site.files = dict.fromkeys(names, b"content")
    for name in names[:3]:
        assert download(site.url(name)).name == name
    with pytest.raises(CheckpointError, match=rf"its SHA-256 begins with {digest[:8]}, not as in its name"):
        download(site.url(names[3]))
    assert len(cached(tmp_path)) == 6


def test_unusual_names_and_folders(site: Server, tmp_path: Path) -> None:
    for path, name in (("", "weights"), ("..", "weights"), ("a%2F%0A%7Eb.pth", "__b.pth"), ("x" * 300, "x" * 120)):
        site.files[path] = b"content"
        assert download(site.url(path), tmp_path / "other").name == name
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="could not download"):
        download(site.url("a.pth"), tmp_path / "file")
    assert download((tmp_path / "file").as_uri()).read_bytes() == b""


def test_weights_from_hugging_face_are_read_safely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, Path] = {}

    def found(model_id: str, name: str, cache_dir: object) -> str:
        if name not in files:
            raise huggingface_hub.errors.EntryNotFoundError(f"no {name} in {model_id}")
        return str(files[name])

    monkeypatch.setattr("transxnet.zoo.download_from_hf", found)
    overlay = {"hf_hub_id": "someone/nano", "source": "hf-hub"}
    with pytest.raises(CheckpointError, match=r"could not download someone/nano from Hugging Face \(no pytorch_model"):
        timm.create_model("transxnet_nano", pretrained=True, pretrained_cfg_overlay=overlay)
    files["pytorch_model.bin"] = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(1).expand(10**10)}, files["pytorch_model.bin"])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin .* a claims 40,000,000,000 bytes"):
        timm.create_model("transxnet_nano", pretrained=True, pretrained_cfg_overlay=overlay)
    files["model.safetensors"] = transxnet.save_model(nano(num_classes=3), tmp_path / "model.safetensors")
    model = timm.create_model("transxnet_nano", pretrained=True, pretrained_cfg_overlay=overlay)
    assert model.num_classes == 3
