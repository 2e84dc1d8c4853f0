"""Roles of docstrings, such as ``:func:`fuse```, as links of the site."""

from __future__ import annotations

import re
from typing import Any

from griffe import Alias, Extension, NameResolutionError, Object

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")


class Roles(Extension):
    """Replaces roles in docstrings when an object is loaded."""

    def on_package(self, *, pkg: Object, **_: Any) -> None:
        """Rewrite the docstrings of a package and of all that is in it."""
        _rewrite(pkg)


def _rewrite(part: Object) -> None:
    if part.docstring is not None:
        part.docstring.value = _ROLE.sub(lambda role: _link(part, *role.groups()), part.docstring.value)
    for member in part.members.values():
        if not isinstance(member, Alias):
            _rewrite(member)


def _link(part: Object, short: str, name: str) -> str:
    """The link in Markdown: to the object if the site has it, otherwise the name in code."""
    try:
        path = name if name.startswith("transxnet.") else part.resolve(name)
    except NameResolutionError:
        return f"`{name}`"
    shown = name.rpartition(".")[2] if short else name
    return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'
