"""The reference of the command line, made from the commands' parsers."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from transxnet.cli.command import CommandParser
from transxnet.cli.main import COMMANDS

_PARTS = {
    "train": ((), ("--task", "detection"), ("--task", "segmentation")),
    "data": (("check",), ("shard",), ("scenes",)),
}
"""Arguments before ``--help``, of commands that have several sets of options."""

_OPTION = re.compile(r"--[a-z][a-z_.-]*")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|])")


def command_reference() -> str:
    """All commands with their options, in Markdown."""
    sections = []
    for name, about in COMMANDS.items():
        known: set[str] = set()
        for index, arguments in enumerate(_PARTS.get(name, ((),))):
            parser = _parser((name, *arguments))
            title = " ".join(("transxnet", name, *arguments))
            if index and arguments[0].startswith("-"):
                intro = "Options that differ from those above."
            else:
                intro = f"{_usage(parser)}\n\n{_paragraphs(parser, about)}"
            options = [option for option in _options(parser) if option not in known]
            known.update(options)
            examples = "" if index and arguments[0].startswith("-") else _examples(parser)
            sections.append("\n\n".join((f"## {title}", intro, *options, examples)))
    return "\n\n".join(sections) + "\n"


def _parser(command: Sequence[str]) -> CommandParser:
    """The parser that prints a command's help."""
    parsers: list[CommandParser] = []

    def keep(parser: CommandParser, *_: Any) -> None:
        parsers.append(parser)

    with mock.patch.object(CommandParser, "print_help", keep), contextlib.suppress(SystemExit):
        importlib.import_module(f"transxnet.cli.{command[0]}").run([*command[1:], "--help"])
    return parsers[0]


def _usage(parser: CommandParser) -> str:
    return f"```text\n{parser.usage}\n```"


def _paragraphs(parser: CommandParser, about: str) -> str:
    return _escaped(parser.description or about)


def _examples(parser: CommandParser) -> str:
    lines = str(parser.epilog or "").partition("\n")[2].rstrip()
    text = "\n".join(line.removeprefix("  ") for line in lines.splitlines())
    return f"```bash\n{text}\n```" if text else ""


def _options(parser: CommandParser) -> Iterator[str]:
    """Each option as an entry of a definition list."""
    formatter = parser._get_formatter()  # argparse has no public access to what it prints
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.help is argparse.SUPPRESS or action.dest == "help":
                continue
            given = _dashed(formatter._format_action_invocation(action))
            meaning = _dashed(formatter._expand_help(action)) if action.help else ""
            yield f"`{given}`\n:   {_escaped(meaning) or '–'}"


def _dashed(text: str) -> str:
    """Options as they are typed."""
    return _OPTION.sub(lambda match: match[0].replace("_", "-"), text)


def _escaped(text: str) -> str:
    """Text as Markdown shows it; code in backticks stays code."""
    parts = text.split("`")
    if len(parts) % 2:
        parts[::2] = (_MARKUP.sub(r"\\\1", part).replace("\\<", "&lt;") for part in parts[::2])
    return "`".join(parts)
