"""The core without the extras, and the errors for missing ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
import tifffile
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import bare_core
from helpers.commands import run
from transxnet.data.images.reading import BadImageError, read_image
from transxnet.extras import EXTRAS, installed

ROOT = Path(__file__).parents[1]
MODULES = {module for packages in EXTRAS.values() for module in packages.values()}


def test_the_core_works_with_no_extra_and_names_what_else_needs(tmp_path: Path) -> None:
    command = [sys.executable, bare_core.__file__, str(tmp_path), *MODULES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = {
        extra: {Requirement(line).name for line in lines} for extra, lines in project["optional-dependencies"].items()
    }
    assert EXTRAS.keys() == stated.keys() - {"all", "dev", "docs", "test"}
    assert {extra: set(packages) for extra, packages in EXTRAS.items()} == {extra: stated[extra] for extra in EXTRAS}
    everything = Requirement(project["optional-dependencies"]["all"][0])
    assert everything.name == "transxnet" and everything.extras == EXTRAS.keys()
    distributions = packages_distributions()
    for packages in EXTRAS.values():
        for package, module in packages.items():
            assert canonicalize_name(package) in map(canonicalize_name, distributions[module])


@pytest.mark.parametrize(
    ("recipe", "missing", "subject", "extra"),
    [
        ("digits", "scipy, tensorboard", '"transxnet train"', "train"),
        ("scenes/retinanet", "faster-coco-eval", "transxnet train: training for detection", "dense"),
    ],
)
def test_a_part_of_an_extra_is_named(
    recipe: str,
    missing: str,
    subject: str,
    extra: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for package in missing.split(", "):
        monkeypatch.setitem(sys.modules, EXTRAS[extra][package], None)
    assert run("train", "--recipe", recipe, "--out", tmp_path / "run") == 2
    line = f'{subject} needs the extra "{extra}": pip install "transxnet[{extra}]" (missing: {missing})\n'
    assert capsys.readouterr().err == line
    assert not (tmp_path / "run").exists()


def test_a_broken_library_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/__init__.py").write_text("raise ImportError('libgomp.so.1: cannot open')")
    (tmp_path / "a.onnx").write_bytes(b"0")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnxruntime"]:
        monkeypatch.delitem(sys.modules, name)
    assert run("predict", "a.png", "--checkpoint", tmp_path / "a.onnx") == 2
    line = "transxnet predict: a library cannot be imported: libgomp.so.1: cannot open\n"
    assert capsys.readouterr().err == line


def test_a_folder_is_not_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_as_a_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not installed("named_as_a_package")


@pytest.mark.filterwarnings("ignore:where an image")
def test_a_tiff_file_that_needs_an_extra_is_a_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((40, 36, 5), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    assert read_image(tmp_path / "a.tif").size == (36, 40)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(
        BadImageError, match=r'needs the extra "train": pip install "transxnet\[train\]" \(missing: tif'
    ):
        read_image(tmp_path / "a.tif")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_installation_adds_the_package_alone_to_what_pytorch_and_timm_bring(tmp_path: Path) -> None:
    def python(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "venv/bin/python"), *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    def pip(*arguments: object) -> list[str]:
        done = python("-m", "pip", "--disable-pip-version-check", "--no-input", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()

    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONNOUSERSITE"] = "1"
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "src", *(path.name for path in ROOT.glob("setup.*"))):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    venv.create(tmp_path / "venv", with_pip=True)
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", "wheels", source)
    pip("install", "--quiet", "torch", "torchvision", "timm", "safetensors", "pillow")
    before = set(pip("freeze", "--all"))
    (wheel,) = (tmp_path / "wheels").iterdir()
    pip("install", "--quiet", wheel)
    after = set(pip("freeze", "--all"))
    assert before < after
    assert [line.partition(" ")[0] for line in after - before] == ["transxnet"]
    done = python(bare_core.__file__, tmp_path / "empty")
    assert done.returncode == 0, done.stderr[-3000:]
