"""A subcommand's parser: bounds, errors in one line, and options for a recipe's settings."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, set_loader

from transxnet.bounds import checked, described, kinds_of, shown
from transxnet.errors import ConfigError
from transxnet.training.recipe import Recipe
from transxnet.training.recipe_file import load_yaml

_YAML = "transxnet"
set_loader(_YAML, load_yaml, exceptions=(ConfigError,))  # values are read within the limits of files

_MISTAKE = re.compile(r'Parser key "([\w.]+)"(?: element \d+)?: ?(.*)')
_GIVEN = re.compile(r"(?:Got|Given) value: (?!NestedArg)(.*)$")
_NO_VALUE = re.compile(r"argument (--[\w.-]+): expected one argument")
_LONGEST = 400
_OPTION = re.compile(r"--[a-z][a-z_.-]*")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples, and fits options into 100 columns."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 30, "width": 98, **settings})


class CommandParser(ArgumentParser):
    """jsonargparse with dashes in the options' names, and errors in one line.

    Args:
        command: The subcommand.
        about: Its description.
        examples: Shown at the end of the help.
    """

    def __init__(self, command: str, about: str, examples: str) -> None:
        super().__init__(
            prog=f"transxnet {command}",
            usage=f"transxnet {command} [options]",
            description=about,
            epilog=f"examples:\n{examples}",
            formatter_class=Formatter,
            allow_abbrev=False,
            parser_mode=_YAML,
        )
        self.kinds: dict[str, Any] = {}  # the type of each option that is checked after parsing, with its bounds
        self._groups: list[str] = []
        self._recipe: tuple[str, ...] = ()  # names of the settings of :meth:`add_recipe`

    def add_number(self, name: str, kind: Any, **settings: Any) -> None:
        """Add an option that is a number within bounds.

        Args:
            name: Such as "--batch_size".
            kind: Its type, of :mod:`transxnet.bounds`.
            **settings: Of ``add_argument``; the default is put at the end of the help.
        """
        default = settings.get("default")
        if default is not None and "(default" not in settings["help"]:
            settings["help"] += f" (default: {default})"
        self.add_argument(name, type=kind, **settings)
        self.kinds[name.removeprefix("--")] = tuple[kind, ...] if "nargs" in settings else kind

    def add_recipe(self, recipe: type[Recipe], settings: Mapping[str, Any] | None = None) -> None:
        """Add an option for every setting of a task's recipes; :func:`settings_of` returns the given ones.

        Args:
            recipe: The task's recipes.
            settings: Of the recipe that the options change, whose help they appear in as defaults.
        """
        self.add_class_arguments(recipe)
        self._recipe = tuple(kinds_of(recipe))
        for name, kind in kinds_of(recipe).items():
            if dataclasses.is_dataclass(kind):
                self._groups.append(name)
                self.kinds |= {f"{name}.{inner}": one for inner, one in kinds_of(kind).items()}
            else:
                self.kinds[name] = kind
        for action in self._actions:
            if action.dest in self._groups:
                action.help = argparse.SUPPRESS  # jsonargparse would read any file there
            elif action.dest in self.kinds and action.dest.partition(".")[0] in self._recipe:
                self._describe_setting(action, settings or {})

    def _describe_setting(self, action: argparse.Action, settings: Mapping[str, Any]) -> None:
        """Put the default of a recipe's setting into its help, and give it a short placeholder."""
        outer, _, inner = action.dest.partition(".")
        value = self.get_default(action.dest)
        if outer in settings:
            given = settings[outer]
            value = given.get(inner, value) if inner and isinstance(given, Mapping) else given
        text = str(action.help).rstrip()
        if "(default" not in text:
            text = f"{text} (default: {_as_typed(value)})"
        action.help = text.replace("%", "%%")
        if isinstance(value, tuple | list):
            action.metavar = "[LOW,HIGH]" if len(value) == 2 else "[VALUE,...]"
        elif not str(action.metavar).startswith("{"):  # no list of choices
            action.metavar = (inner or outer).upper()

    def parse(self, arguments: Sequence[str]) -> Any:
        """Parse a command line; a recipe's settings are among the options only if they are given.

        Raises:
            ConfigError: If an option is unknown, or its value cannot be used.
        """
        given = list(arguments)
        end = given.index("--") if "--" in given else len(given)
        internal = [self._internal(argument) for argument in given[:end]]
        for group in self._groups:
            if any(argument.partition("=")[0] == f"--{group}" for argument in internal):
                parts = ", ".join(_spelt(key) for key in self.kinds if key.startswith(f"{group}."))
                raise ConfigError(f"--{group} is not an option by itself; there are {parts}")
        self._check_given(internal)
        options = self.parse_args(internal + given[end:], defaults=not self._recipe)
        for name, default in self.get_defaults().items():
            if self._recipe and name.partition(".")[0] not in (*self._recipe, *options.as_dict()):
                options[name] = default
        for key, kind in self.kinds.items():
            value = options.get(key)
            if key in options and (value is not None or self.get_default(key) is not None):
                checked(_spelt(key), value, kind)
        return options

    def _check_given(self, arguments: Sequence[str]) -> None:
        """Check values first: jsonargparse reads numbers with PyYAML's loader, without limits and 010 as 8."""
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
                checked(_spelt(key), _read(value), kind)
            key = key if several else ""

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        text = super().format_help(formatter)
        return _OPTION.sub(lambda match: match[0].replace("_", "-"), text)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = " ".join(str(message).split())
        mistake = _MISTAKE.search(line)
        line = self._in_our_words(*mistake.groups()) if mistake else _OPTION.sub(lambda one: _spelt(one[0][2:]), line)
        line = _argument_error(line)
        line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
        raise ConfigError(f"{line} (`{self.prog} --help` lists the options)")

    def _in_our_words(self, key: str, reason: str) -> str:
        """An error of jsonargparse in our words: what was expected, and what was given."""
        if key not in self.kinds:
            return f"{_spelt(key)}: {reason}"
        given = _GIVEN.search(reason)
        value = "" if given is None else f", not {shown(None if given[1] == 'None' else given[1])}"
        return f"{_spelt(key)} must be {described(self.kinds[key])}{value}"

    @staticmethod
    def _internal(argument: str) -> str:
        name, equals, value = argument.partition("=")
        return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else argument


def _read(value: str) -> Any:
    """An option's value read as YAML; the text itself if it is not plain YAML."""
    try:
        return load_yaml(value)
    except ConfigError:
        return value


def _as_typed(value: Any) -> str:
    """A setting's value as it is given on a command line."""
    if isinstance(value, str):
        return value or '""'
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)


def _is_text(kind: Any) -> bool:
    """Whether a type is text, one of several texts, or either of these or None."""
    if get_origin(kind) is Literal or kind is str:
        return True
    return any(one is str for one in get_args(kind))


def _spelt(key: str) -> str:
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


def settings_of(recipe: type[Recipe], options: Any) -> dict[str, Any]:
    """The recipe's settings among parsed options, nested ones as mappings."""
    given = options.as_dict()
    return {name: given[name] for name in kinds_of(recipe) if name in given}
