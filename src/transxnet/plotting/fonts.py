"""Fonts for names of classes in any script, among those that are installed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache

from matplotlib import font_manager

from transxnet.text import printable

USUAL = "DejaVu Sans"
"""The family that installs with matplotlib."""

_INVISIBLE = "\u200c\u200d\ufe0e\ufe0f"  # joiners, and selectors of a character's form
_BOXES = "Last Resort"  # a font of a box for every character


def fonts_for(text: str) -> list[str]:
    """Files of fonts that have the characters of a text together, the usual one first; as few as possible.

    Characters that no installed font has are left to :func:`drawable`.
    """
    files = [usual_file()]
    missing = _needed(text) - _characters(files[0])
    while missing:
        best, count = "", 0
        for file in _installed():
            found = len(missing & _characters(file))
            if found > count:
                best, count = file, found
            if found == len(missing):
                break
        if not best:
            break
        files.append(best)
        missing -= _characters(best)
    return files


def font_for(texts: Iterable[str]) -> str:
    """The file of the one font that has the most characters of some texts; the usual one if it has as many."""
    needed = _needed("".join(texts))
    return max(fonts_for("".join(map(chr, sorted(needed)))), key=lambda file: len(needed & _characters(file)))


def families_for(text: str) -> list[str]:
    """The families of :func:`fonts_for`, which matplotlib tries one after the other for each character."""
    return list(dict.fromkeys(font_manager.get_font(file).family_name for file in fonts_for(text)))


def drawable(text: str, file: str | None = None) -> str:
    """A text that is safe to print, with characters that no font has as U+732B and the like.

    Args:
        text: The text.
        file: The font to draw it in; by default those of :func:`fonts_for`.
    """
    known = frozenset[int]().union(*map(_characters, fonts_for(text) if file is None else [file]))
    return "".join(
        one if ord(one) in known or one.isspace() else "" if one in _INVISIBLE else f"U+{ord(one):04X}"
        for one in printable(text)
    )


def usual_file() -> str:
    """The file of the usual font."""
    return font_manager.findfont(USUAL)


def _needed(text: str) -> set[int]:
    return {ord(one) for one in printable(text) if not one.isspace() and one not in _INVISIBLE}


@cache
def _characters(file: str) -> frozenset[int]:
    """The characters that a font has."""
    with suppress(Exception):  # damaged fonts
        return frozenset(font_manager.get_font(file).get_charmap())
    return frozenset()


@cache
def _installed() -> tuple[str, ...]:
    """Files of the installed fonts, upright regular ones first."""
    entries = sorted(
        (one for one in font_manager.fontManager.ttflist if not one.name.startswith(_BOXES)),
        key=lambda one: (one.style != "normal", one.weight not in (400, "normal", "regular"), one.name, one.fname),
    )
    return tuple(dict.fromkeys(one.fname for one in entries))
