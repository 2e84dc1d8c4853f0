"""The layout in CONTRIBUTING.md and the layers of import-linter cover the package; files and functions are short."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "transxnet"


def names() -> set[str]:
    """Modules and folders of the package, except its root modules."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "version"}
    return modules | {path.name for path in PACKAGE.iterdir() if path.is_dir() and next(path.glob("**/*.py"), None)}


def test_every_folder_and_module_is_in_the_layout() -> None:
    table = re.findall(r"^\| (`.+?) \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = set(re.findall(r"`([\w.]+/?)`", " ".join(table)))
    assert {f"{path.name}/" for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"} <= listed
    assert {f"{name}.py" for name in names() if (PACKAGE / f"{name}.py").exists()} <= listed
    assert not [name for name in listed if not (PACKAGE / name).exists()]


def test_every_folder_and_module_has_a_layer() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    assert {name for layer in layers["layers"] for name in re.split(r"[|:\s]+", layer)} == names()


def test_files_and_functions_are_short() -> None:
    long: list[str] = []
    for path in (path for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        long += [str(path)] * (text.count("\n") > 350)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                long.append(f"{path}: {node.name}")
    assert not long
