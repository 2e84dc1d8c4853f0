"""Texts of others made safe to show."""

from __future__ import annotations

import unicodedata

_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode categories of control and formatting characters, surrogates, and separators of lines."""

_JOINERS = "\u200c\u200d"  # harmless, and wanted in some scripts and emoji


def printable(text: str) -> str:
    """A text in which every character that could move, recolour or reorder a terminal's text is escaped.

    Names of files and classes come from others: they may hold newlines, escape sequences, marks that
    reverse the direction of writing, and bytes that are not Unicode.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character in _JOINERS or unicodedata.category(character) not in _UNSAFE:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
