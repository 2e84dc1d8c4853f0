"""A browser for the tests of the page; their modules name this one in ``pytest_plugins``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from helpers.fake_server import Fake, fake_server
from helpers.pages import OpenPage

PATIENCE = 30_000  # milliseconds; a loaded machine is slower than Playwright's 5 s
expect.set_options(timeout=PATIENCE)

FLAGS = ("--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@dataclass
class Watched:
    """Pages, whose requests and errors are recorded.

    Attributes:
        browser: The browser.
        shared: A page that tests use in turn, since opening another takes long.
        sent: Addresses of requests.
        problems: Errors and warnings of the pages, and of the content policy.
    """

    browser: Browser
    shared: Page | None = None
    sent: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def page(self, **options: Any) -> Page:
        """A page in a context of its own."""
        context: BrowserContext = self.browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        context.on("request", lambda request: self.sent.append(request.url))
        context.on("console", self._note)
        context.on("weberror", lambda error: self.problems.append(str(error.error)))
        return context.new_page()

    def shared_page(self) -> Page:
        """The shared page, as new."""
        if self.shared is None:
            self.shared = self.page(reduced_motion="reduce")
        elif self.shared.url.startswith("http"):
            self.shared.context.set_offline(False)
            self.shared.mouse.move(0, 0)  # where it highlights nothing
            self.shared.evaluate("() => (localStorage.clear(), sessionStorage.clear())")
        return self.shared

    def _note(self, message: ConsoleMessage) -> None:
        # Chromium reports each status of an error itself, and that the tests read pixels.
        usual = ("Failed to load resource", "willReadFrequently")
        if message.type in ("error", "warning") and not any(each in message.text for each in usual):
            self.problems.append(message.text)


@pytest.fixture(scope="module")
def watched_pages() -> Iterator[Watched]:
    """Chromium; a module's, since it has an event loop run in the thread."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("TRANSXNET_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = "there is no Chromium; install it (apt install chromium), or set TRANSXNET_CHROMIUM to its path"
        if "CI" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield Watched(browser)
        browser.close()


@pytest.fixture(scope="module")
def made_up() -> Iterator[Fake]:
    """A server that makes predictions up."""
    with fake_server() as fake:
        yield fake


@pytest.fixture
def show_page(watched_pages: Watched) -> Iterator[Callable[..., Page]]:
    """``show_page(url)``: the page at an address, which sends no request elsewhere and has no errors."""
    watched = watched_pages
    watched.sent.clear()
    watched.problems.clear()
    visited: list[str] = []
    with ExitStack() as stack:

        def show(url: str, *, width: int = 1280, script: str = "", clock: bool = False, **options: Any) -> Page:
            if script or clock or options:
                page = watched.page(reduced_motion="reduce", **options)
                stack.callback(page.context.close)
                page.add_init_script(script)
            else:
                page = watched.shared_page()
            if clock:
                page.clock.install()
            page.set_viewport_size({"width": width, "height": 800})
            visited.append(url)
            page.goto(url)
            page.locator("#facts dd").first.wait_for()
            return page

        yield show
    assert not watched.problems
    assert not [url for url in watched.sent if not url.removeprefix("blob:").startswith(tuple(visited))]


@pytest.fixture
def open_page(show_page: Callable[..., Page], made_up: Fake) -> OpenPage:
    """``open_page(task)``: the page of a server that makes predictions up, and that server."""

    def open_one(
        task: str = "classification", *, server: dict[str, Any] | None = None, **options: Any
    ) -> tuple[Page, Fake]:
        made_up.reset(task, **(server or {}))
        return show_page(made_up.url, **options), made_up

    return open_one
