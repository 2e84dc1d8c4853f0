"""Text for people: untrusted text escaped for terminals, and shares."""

from __future__ import annotations

import re
import unicodedata

_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode categories: control and formatting characters, surrogates, line and paragraph separators."""

_MARKUP = re.compile(r"[\\`*_\[\]<>|~$&!#@]|:(?=//)|(?<=www)\.", re.IGNORECASE)

_JOINERS = "\u200c\u200d"  # harmless, and needed in some scripts and emoji


def printable(text: str) -> str:
    """Escape every character that could move, recolour or reorder text in a terminal.

    Names of files and classes are untrusted: they may contain newlines, escape sequences, marks that
    reverse the direction of writing, and bytes that are not Unicode.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escaped, text))


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "2 images", "3 classes"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else plural}"


def _escaped(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _UNSAFE:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 in percent; "–" if there is none (None or NaN)."""
    return "–" if share is None or share != share else f"{share:.{digits}%}"


def unicode_text(text: str) -> str:
    r"""Text that any reader of UTF-8 accepts: a byte of a name that is not UTF-8, such as FF, becomes ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def markdown(text: str, longest: int | None = None) -> str:
    """Untrusted text as one line of Markdown, in a sentence or a table, that CommonMark shows as it is.

    Web addresses and names after "@" are escaped, too; a renderer that links them in the page that it has made, where
    no escape is left, still does.

    Args:
        text: The text.
        longest: Number of characters after which it is cut; None for all of it.
    """
    line = printable(text)
    line = line if longest is None or len(line) <= longest else f"{line[:longest]}…"
    return _MARKUP.sub(r"\\\g<0>", line)
