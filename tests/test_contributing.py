"""The layout in CONTRIBUTING.md and the layers of import-linter cover the package."""

from __future__ import annotations

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
