"""The documentation's notebook runs, its reference is complete, and its check finds what is fetched elsewhere."""

from __future__ import annotations

import json
import runpy
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import transxnet
from helpers.commands import paint
from helpers.forked import python

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def notebook_code() -> str:
    cells = json.loads((DOCS / "first-steps.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_the_notebook_runs_on_a_few_images(tmp_path: Path) -> None:
    code = notebook_code()
    for whole, short in (('DATA = "digits"', 'DATA = "photos"'), ("EPOCHS = 5", "EPOCHS = 1")):
        assert code.count(whole) == 1
        code = code.replace(whole, short)
    paint(tmp_path / "photos", 3)
    code = code.replace("transxnet.train(DATA", 'transxnet.train(DATA, model="transxnet_nano", image_size=32')
    ended = python(code, folder=tmp_path)
    assert ended.status == 0 and "same outputs: True" in ended.out, ended.err


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    ended = python(notebook_code(), folder=tmp_path)
    assert ended.status == 0 and "same outputs: True" in ended.out, ended.err


def test_the_reference_has_every_public_name() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    assert not [name for name in transxnet.__all__ if name[0] != "_" and f"::: transxnet.{name}" not in text]


def test_the_oldest_releases_of_the_core_are_stated() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = {
        requirement.name: f"{requirement.name} {bound.version}"
        for requirement in map(Requirement, project["dependencies"])
        for bound in requirement.specifier
    }
    for page, names in (("docs/installing.md", set(oldest)), ("README.md", {"torch", "timm"})):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert not [oldest[name] for name in names if oldest[name] not in text], page


def test_resources_of_other_servers_are_found(tmp_path: Path) -> None:
    own = '<img src="images/a.png"><script src="../a.js"></script><a href="https://arxiv.org">paper</a>'
    (tmp_path / "own.html").write_text(f'{own}<link rel="canonical" href="https://here.org/own.html">')
    elsewhere = (
        '<script src="https://cdn.org/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.org/a.css">',
        '<img srcset="a.png 1x, https://images.org/b.png 2x">',
        "<style>@import 'https://styles.org/a.css';</style>",
    )
    (tmp_path / "other.html").write_text("".join(elsewhere))
    (tmp_path / "other.css").write_text("body { background: url(https://images.org/c.png) }")
    found = runpy.run_path(str(DOCS / "scripts" / "check_resources.py"))["fetched_elsewhere"](tmp_path)
    assert [line.partition(" fetches")[0] for line in found] == ["other.html"] * 4 + ["other.css"]
