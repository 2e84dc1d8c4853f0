"""The page of the server itself, with a network of each task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Page, expect

import transxnet
from helpers.networks import lively_dense, nano
from helpers.pages import choose, image_file, overlay_pixel
from transxnet.serve import engine as engine_module
from transxnet.serve.app import create_app
from transxnet.serve.engine import Engine
from transxnet.serve.server import listen
from transxnet.serve.settings import ServerSettings

pytest_plugins = ["helpers.browser"]


class Thread:
    """Stands for a process of the server, which would take seconds to start."""

    failures = 0
    pid = None
    alive = False

    def __init__(self, name: str, set_up: Callable[..., Any], *arguments: Any, **_: Any) -> None:
        self.set_up, self.arguments = set_up, arguments
        self.state: Any = None

    async def start(self) -> Any:
        self.state = self.set_up(*self.arguments)
        self.alive = True
        return self.state.described

    async def keep(self) -> None:
        assert self.alive

    async def run(self, function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        return await asyncio.to_thread(function, self.state, *arguments)

    def kill(self) -> None:
        self.alive = False

    stop = kill


@contextmanager
def served(checkpoint: Path) -> Iterator[str]:
    """The address of a server of a checkpoint."""
    settings = ServerSettings(port=0)
    engine = Engine({"checkpoint": checkpoint, "fuse": False}, settings)
    listening = listen(settings)
    server = uvicorn.Server(uvicorn.Config(create_app(engine, settings), log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture
def show_network(
    show_page: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Any], Page]]:
    """``show_network(network)``: the page of a server of a network."""
    monkeypatch.setattr(engine_module, "WorkerProcess", Thread)
    monkeypatch.setattr(Engine, "prepares", False, raising=False)
    with ExitStack() as stack:

        def show(network: Any) -> Page:
            transxnet.save_model(network, tmp_path / "nano.safetensors")
            page = show_page(stack.enter_context(served(tmp_path / "nano.safetensors")))
            stack.callback(page.goto, "about:blank")  # otherwise its connections would stay
            return page

        yield show


@pytest.mark.parametrize("kind", ["classifier", "mask_rcnn", "semantic_fpn"])
def test_the_page_shows_what_a_network_predicts(show_network: Callable[[Any], Page], kind: str) -> None:
    page = show_network(nano() if kind == "classifier" else lively_dense(kind))
    expect(page.get_by_text("nano.safetensors")).to_be_visible()
    choose(page, image_file("a.png", (90, 60)), {"name": "bad.png", "mimeType": "image/png", "buffer": b"no image"})
    expect(page.locator("#timing")).to_contain_text("Server ")
    expect(page.get_by_role("button", name="bad.png, failed")).to_be_visible()
    if kind == "classifier":
        expect(page.locator(".bar")).to_have_count(3)
    elif kind == "mask_rcnn":
        page.get_by_label("Score").press("Home")
        expect(page.get_by_role("list", name="Objects").get_by_role("button").first).to_be_visible()
    else:
        shown = page.get_by_role("list", name="Classes to show").get_by_role("button")
        expect(shown.first).to_contain_text(" %")


@pytest.mark.slow  # what computes heat maps takes seconds to import
def test_the_page_shows_where_a_network_finds_a_class(show_network: Callable[[Any], Page]) -> None:
    page = show_network(nano())
    choose(page, image_file("a.png", (90, 60)))
    page.get_by_role("switch").check()
    expect(page.locator("#live")).to_contain_text("Heat map of stage 4 for ", timeout=60_000)
    assert overlay_pixel(page, 0.05, 0.5)[3] > 0
