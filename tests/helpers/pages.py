"""Using the page of ``transxnet serve``."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image
from playwright.sync_api import FilePayload, Page, expect

from helpers.fake_server import Fake

OpenPage = Callable[..., tuple[Page, Fake]]
"""The fixture ``open_page``: the page of a made-up server for a task, and that server."""


def image_file(name: str = "cat.png", size: tuple[int, int] = (120, 80), **save: Any) -> FilePayload:
    """A grey image as a file to choose; the name's end is its format."""
    file = io.BytesIO()
    kind = name.rpartition(".")[2].replace("jpg", "jpeg").replace("tif", "tiff")
    Image.new("RGB", size, "#808080").save(file, kind, **save)
    return {"name": name, "mimeType": f"image/{kind}", "buffer": file.getvalue()}


def choose(page: Page, *files: FilePayload) -> None:
    """Choose files, and wait for what the page says of the first of them."""
    page.locator("#files").set_input_files(list(files))
    expect(page.locator("#state .working")).to_have_count(0)
    expect(page.locator("#after, #state .failure, #notices .notice").locator("visible=true").first).to_be_visible()


def names(page: Page) -> list[str]:
    """Labels of the thumbnails."""
    return [str(each.get_attribute("aria-label")) for each in page.locator(".thumb").all()]


def settle(page: Page) -> None:
    """Wait until what was asked for is painted."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def overlay_pixel(page: Page, x: float, y: float) -> tuple[int, ...]:
    """Red, green, blue and opacity of the overlay at shares of its width and height."""
    settle(page)
    script = """([x, y]) => {
        const canvas = document.getElementById("overlay");
        return [...canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
    }"""
    return tuple(page.evaluate(script, [x, y]))


def module(page: Page, name: str, call: str, *arguments: Any) -> Any:
    """Call a function of one of the page's modules with arguments."""
    script = "async ([path, name, values]) => (await import(path))[name](...values)"
    return page.evaluate(script, [f"/static/{name}.js", call, list(arguments)])
