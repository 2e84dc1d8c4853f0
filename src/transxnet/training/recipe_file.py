"""Reading recipe files and other untrusted YAML: plain data within limits; an error is one line with file and key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from transxnet.bounds import checked_settings, shown
from transxnet.errors import ConfigError
from transxnet.files import read_text, reading

MAX_BYTES = 2**20
MAX_LEVELS = 20
MAX_NODES = 10_000

_TAG = "tag:yaml.org,2002:"
_REPLACED = (f"{_TAG}int", f"{_TAG}float", f"{_TAG}timestamp")
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")
_NUMBER = re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+)"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_MAX_DIGITS = 4000  # Python converts no more


class _Dumper(yaml.SafeDumper):
    """With quotation marks around text that :class:`_Loader` would take for a number."""


class _Loader(yaml.SafeLoader):
    """Loads text, decimal numbers, booleans, null, lists and mappings with text as keys.

    Unlike in YAML 1.1, 1e-3 is a number, and 2020-01-01, 1:30 and 010 are text.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        f"{_TAG}{name}": yaml.SafeLoader.yaml_constructors[f"{_TAG}{name}"] for name in ("null", "str", "seq", "map")
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == f"{_TAG}merge":
                continue
            if key.tag != f"{_TAG}str":
                raise ConstructorError(None, None, f"{_key(key)} as a key is not text", key.start_mark)
            if key.value in seen:
                raise ConstructorError(None, None, f"{shown(key.value)} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def number(self, node: Any) -> Any:
        """A number; a text that is not one stays text, which is rejected where it is used."""
        text = str(self.construct_scalar(node))
        digits = text.replace("_", "")
        if len(digits) > _MAX_DIGITS:
            return text
        if _WHOLE.match(text):
            return int(digits)
        if _NUMBER.match(text):
            return float(digits.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return text

    def truth(self, node: Any) -> Any:
        text = str(self.construct_scalar(node))
        return _TRUTH.get(text.lower(), text)

    def refused(self, node: Any) -> Any:
        raise ConstructorError(None, None, f"the tag {shown(node.tag)} is not for plain data", node.start_mark)


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(f"{_TAG}int", _WHOLE, list("-+0123456789"))
    _kind.add_implicit_resolver(f"{_TAG}float", _NUMBER, list("-+0123456789."))
for _name in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_name}", _Loader.number)
_Loader.add_constructor(f"{_TAG}bool", _Loader.truth)
_Loader.add_constructor(None, _Loader.refused)  # every other tag


def load_yaml(text: str) -> Any:
    """Load a YAML text of limited size and depth.

    Raises:
        ConfigError: If it is not YAML, has other than plain data or a key twice, is nested more than
            :data:`MAX_LEVELS` deep, or has more than :data:`MAX_NODES` values, those of aliases counted each time.
    """
    try:
        _check_extent(yaml.parse(text, Loader=_Loader))
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "it is not YAML"
        if problem.startswith("but found") and error.context:
            problem = f"{error.context}, {problem}"
        problem = " ".join(problem.split())
        raise ConfigError(f"{_line(error.problem_mark or error.context_mark)}{problem[:200]}") from error
    except yaml.YAMLError as error:
        raise ConfigError("it is not plain text: there are control characters in it") from error


def dump_yaml(values: Any) -> str:
    """Plain data as YAML that :func:`load_yaml` reads as the same."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


def _key(node: Any) -> str:
    return shown(node.value) if isinstance(node, yaml.ScalarNode) else "a list or a mapping"


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}: " if mark else ""


def _check_extent(events: Iterator[yaml.Event]) -> None:
    """Check the size and depth of a document before it is built, without recursion."""
    extents: dict[str, tuple[int, int]] = {}  # nodes and levels under each anchor
    open_: list[tuple[str | None, int, int]] = []  # anchor, nodes before, deepest level inside
    nodes = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, nodes, len(open_) + 1))
            nodes, extent = nodes + 1, 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before, deepest = open_.pop()
            extent = deepest - len(open_)
            if anchor is not None:
                extents[anchor] = nodes - before, extent
        elif isinstance(event, yaml.AliasEvent):
            more, extent = extents.get(str(event.anchor), (0, 0))
            if not more:
                raise ConfigError(f"{_line(event.start_mark)}*{shown(event.anchor)} is not known, or holds itself")
            nodes += more
        elif isinstance(event, yaml.ScalarEvent):
            nodes, extent = nodes + 1, 0
            if event.anchor is not None:
                extents[event.anchor] = 1, 0
        else:
            continue
        if len(open_) + extent > MAX_LEVELS:
            raise ConfigError(f"{_line(event.start_mark)}it is nested more than {MAX_LEVELS} levels deep")
        if nodes > MAX_NODES:
            raise ConfigError(f"it has more than {MAX_NODES:,} values")
        if open_:
            anchor, before, deepest = open_[-1]
            open_[-1] = anchor, before, max(deepest, len(open_) + extent)


def read_recipe(path: Path) -> dict[str, Any]:
    """The settings in a recipe's file, not checked yet.

    Raises:
        ConfigError: If it cannot be read, or has no settings; the file is named.
    """
    with reading(path, ConfigError):
        text = read_text(path, MAX_BYTES)
    try:
        content = load_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} is not a recipe: it has no settings")
    return content


def recipe_settings(cls: type, content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A file's settings checked against a class of recipes; nested ones stay mappings.

    Args:
        cls: The class.
        content: As of :func:`read_recipe`; its "task" is left out.
        path: The file, for messages.

    Raises:
        ConfigError: If a setting is unknown, of another kind or out of range; file and setting are named.
    """
    try:
        return checked_settings(cls, {name: value for name, value in content.items() if name != "task"})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
