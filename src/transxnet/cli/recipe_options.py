"""A subcommand's parser with an option for each of a recipe's settings."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser, set_loader

from transxnet.bounds import described, kinds_of, shown
from transxnet.cli.command import CommandParser, spelt
from transxnet.errors import ConfigError
from transxnet.training.recipe import Recipe
from transxnet.training.recipe_file import load_yaml

_YAML = "transxnet"
set_loader(_YAML, load_yaml, exceptions=(ConfigError,))  # values are read within the limits of files

_MISTAKE = re.compile(r'Parser key "([\w.]+)"(?: element \d+)?: ?(.*)')
_GIVEN = re.compile(r"(?:Got|Given) value: (?!NestedArg)(.*)$")


class RecipeParser(CommandParser, ArgumentParser):
    """jsonargparse, which makes options of a dataclass's fields; arguments are those of :class:`CommandParser`."""

    def __init__(self, command: str, about: str, examples: str) -> None:
        super().__init__(command, about, examples, parser_mode=_YAML)
        self._groups: list[str] = []
        self._recipe: tuple[str, ...] = ()  # names of the settings of :meth:`add_recipe`

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
        elif str(action.metavar).startswith("{"):  # a list of choices
            action.metavar = str(action.metavar).replace("True", "true").replace("False", "false")
        else:
            action.metavar = (inner or outer).upper()

    def _reader(self, kind: Any) -> Any:
        return kind

    def parse(self, arguments: Sequence[str]) -> Any:
        """Parse a command line; a recipe's settings are among the options only if they are given.

        Raises:
            ConfigError: If an option is unknown, or its value cannot be used.
        """
        given = list(arguments)
        for argument in given[: given.index("--") if "--" in given else len(given)]:
            group = argument.partition("=")[0].removeprefix("--").replace("-", "_")
            if group in self._groups and argument.startswith("--"):
                parts = ", ".join(spelt(key) for key in self.kinds if key.startswith(f"{group}."))
                raise ConfigError(f"{spelt(group)} is not an option by itself; there are {parts}")
        return super().parse(given)

    def _parsed(self, arguments: Sequence[str]) -> Any:
        options = self.parse_args(list(arguments), defaults=not self._recipe)
        for name, default in self.get_defaults().items():
            if self._recipe and name.partition(".")[0] not in (*self._recipe, *options.as_dict()):
                options[name] = default
        return options

    def _values(self, options: Any) -> dict[str, Any]:
        return {key: options.get(key) for key in self.kinds if key in options}

    def _in_our_words(self, line: str) -> str:
        """An error of jsonargparse in our words: what was expected, and what was given."""
        mistake = _MISTAKE.search(line)
        if mistake is None:
            return super()._in_our_words(line)
        key, reason = mistake.groups()
        if key not in self.kinds:
            return f"{spelt(key)}: {reason}"
        found = _GIVEN.search(reason)
        value = "" if found is None else f", not {shown(None if found[1] == 'None' else found[1])}"
        return f"{spelt(key)} must be {described(self.kinds[key])}{value}"


def _as_typed(value: Any) -> str:
    """A setting's value as it is given on a command line."""
    if isinstance(value, str):
        return value or '""'
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)


def settings_of(recipe: type[Recipe], options: Any) -> dict[str, Any]:
    """The recipe's settings among parsed options, nested ones as mappings."""
    given = options.as_dict()
    return {name: given[name] for name in kinds_of(recipe) if name in given}
