"""A subcommand's parser: options that are numbers within bounds, and errors in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from transxnet.bounds import checked
from transxnet.errors import ConfigError
from transxnet.training.recipe_file import load_yaml

ArgumentGroup = argparse._ArgumentGroup  # which has no public name
"""A group of options, under a heading of its own in the help."""

_NO_VALUE = re.compile(r"argument (--[\w.-]+): expected one argument")
_LONGEST = 400
_OPTION = re.compile(r"--[a-z][a-z_.-]*")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples, and fits options into 100 columns."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 30, "width": 98, **settings})


class CommandParser(argparse.ArgumentParser):
    """argparse with dashes in the options' names, and errors in one line.

    Args:
        command: The subcommand.
        about: Its description.
        examples: Shown at the end of the help.
        **settings: Of further base classes.
    """

    def __init__(self, command: str, about: str, examples: str, **settings: Any) -> None:
        super().__init__(
            prog=f"transxnet {command}",
            usage=f"transxnet {command} [options]",
            description=about,
            epilog=f"examples:\n{examples}",
            formatter_class=Formatter,
            allow_abbrev=False,
            **settings,
        )
        self.kinds: dict[str, Any] = {}  # the type of each option that is checked after parsing, with its bounds

    def add_number(self, name: str, kind: Any, group: ArgumentGroup | None = None, **settings: Any) -> None:
        """Add an option that is a number within bounds.

        Args:
            name: Such as "--batch_size".
            kind: Its type, of :mod:`transxnet.bounds`.
            group: A group of options, to add it to.
            **settings: Of ``add_argument``; the default is put at the end of the help.
        """
        default = settings.get("default")
        if default is not None and "(default" not in settings["help"]:
            settings["help"] += f" (default: {default})"
        (group or self).add_argument(name, type=self._reader(kind), **settings)
        self.kinds[name.removeprefix("--")] = tuple[kind, ...] if "nargs" in settings else kind

    def _reader(self, kind: Any) -> Any:
        """The argument ``type`` of ``add_argument`` for a number of this type."""
        return read_value

    def parse(self, arguments: Sequence[str]) -> Any:
        """Parse a command line.

        Raises:
            ConfigError: If an option is unknown, or its value cannot be used.
        """
        given = list(arguments)
        end = given.index("--") if "--" in given else len(given)
        internal = [self._internal(argument) for argument in given[:end]]
        self._check_given(internal)
        options = self._parsed(internal + given[end:])
        for key, value in self._values(options).items():
            if value is not None or self.get_default(key) is not None:
                checked(spelt(key), value, self.kinds[key])
        return options

    def _parsed(self, arguments: Sequence[str]) -> Any:
        return self.parse_args(arguments)

    def _values(self, options: Any) -> dict[str, Any]:
        """The parsed values that have bounds."""
        return {key: getattr(options, key) for key in self.kinds}

    def _check_given(self, arguments: Sequence[str]) -> None:
        """Check values first, so that an error names what was given."""
        key, several = "", False
        for argument in arguments:
            value: str | None = argument
            if argument.startswith("--"):
                key, equals, text = argument[2:].partition("=")
                value = text if equals else None
                action = next((one for one in self._actions if one.dest == key), None)
                several = action is not None and action.nargs == "+"
            if value is None or key not in self.kinds:
                continue
            kind = self.kinds[key]
            kind = get_args(kind)[0] if several else kind
            if not _is_text(kind):
                checked(spelt(key), read_value(value), kind)
            key = key if several else ""

    def format_help(self, *formatter: Any) -> str:
        text = super().format_help(*formatter)
        return _OPTION.sub(lambda match: match[0].replace("_", "-"), text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = _argument_error(self._in_our_words(" ".join(str(message).split())))
        line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
        raise ConfigError(f"{line} (`{self.prog} --help` lists the options)")

    def _in_our_words(self, line: str) -> str:
        return _OPTION.sub(lambda one: spelt(one[0][2:]), line)

    @staticmethod
    def _internal(argument: str) -> str:
        name, equals, value = argument.partition("=")
        return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument


def read_value(value: str) -> Any:
    """An option's value read as YAML; the text itself if it is not plain YAML."""
    try:
        return load_yaml(value)
    except ConfigError:
        return value


def _is_text(kind: Any) -> bool:
    """Whether a type is text, one of several texts, or either of these or None."""
    if get_origin(kind) is Literal or kind is str:
        return True
    return any(one is str for one in get_args(kind))


def spelt(key: str) -> str:
    """An option as it is typed: with dashes."""
    return f"--{key.replace('_', '-')}"


class _FirstParser(argparse.ArgumentParser):
    """argparse's parser with errors in one line."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(_argument_error(message))


def first_options(arguments: Sequence[str], *names: str) -> tuple[dict[str, str], bool]:
    """Parse the options that choose a recipe, and with its task the other options.

    This is argparse's, since jsonargparse refuses to parse a part of the options.

    Args:
        arguments: The command line.
        names: Of the options, without dashes.

    Returns:
        Name to value of those that are given; and whether help is asked for.

    Raises:
        ConfigError: If one of these options has no value, or an empty one.
    """
    parser = _FirstParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in names:
        parser.add_argument(f"--{name}")
    parser.add_argument("-h", "--help", action="store_true", default=False)
    given = vars(parser.parse_known_args(arguments)[0])
    wanted = given.pop("help")
    for name, value in given.items():
        if not value:
            raise ConfigError(f"--{name} needs a value")
    return given, wanted


def _argument_error(message: str) -> str:
    return _NO_VALUE.sub(r"\1 needs a value", message)
