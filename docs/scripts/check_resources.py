"""Fails the build if a page would fetch anything from elsewhere when it is viewed."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

_LINKS = {"alternate", "author", "canonical", "license", "next", "prev"}
"""Relations of ``<link>`` that a browser does not fetch."""

_ELSEWHERE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
_IN_CSS = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


class _Resources(HTMLParser):
    """Collects the addresses of other servers that a page fetches from."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._in_style = tag == "style"
        fetched = [given.get("src", ""), given.get("poster", ""), *given.get("srcset", "").split(",")]
        if tag == "object":
            fetched.append(given.get("data", ""))
        if tag == "link" and not _LINKS & set(given.get("rel", "").lower().split()):
            fetched.append(given.get("href", ""))
        self.found += [address.strip() for address in fetched if _ELSEWHERE.match(address)]
        self.found += _IN_CSS.findall(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += _IN_CSS.findall(data)


def fetched_elsewhere(folder: Path) -> list[str]:
    """The pages and style sheets of a built site that fetch from other servers, with the addresses."""
    found = []
    for page in sorted(folder.rglob("*.html")):
        resources = _Resources()
        resources.feed(page.read_text(encoding="utf-8"))
        found += [f"{page.relative_to(folder)} fetches {address}" for address in resources.found]
    for sheet in sorted(folder.rglob("*.css")):
        addresses = _IN_CSS.findall(sheet.read_text(encoding="utf-8"))
        found += [f"{sheet.relative_to(folder)} fetches {address}" for address in addresses]
    return found


def on_post_build(config: Any) -> None:
    """Check the site that was built."""
    from mkdocs.exceptions import PluginError

    if found := fetched_elsewhere(Path(config.site_dir)):
        raise PluginError("\n".join(found))
