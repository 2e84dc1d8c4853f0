"""The build; pyproject.toml has all settings. Wheels with compiled kernels are made by ``make wheel``.

With TRANSXNET_WHEEL_KERNELS=x86_64 or aarch64 a wheel holds the kernels, compiled for all levels of that machine with
the compiler in CXX; otherwise it is pure, and kernels are compiled where they are used.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

MACHINE = os.environ.get("TRANSXNET_WHEEL_KERNELS", "")
SOURCES = Path("transxnet", "kernels", "cpu")
COMPILERS = {"x86_64": "g++", "aarch64": "aarch64-linux-gnu-g++"}


def load_levels() -> Any:
    """The module of levels, without the package, whose dependencies a build does not have."""
    spec = importlib.util.spec_from_file_location("levels", Path(__file__).parent / "src" / SOURCES / "levels.py")
    assert spec is not None
    assert spec.loader is not None
    levels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(levels)
    return levels


def compile_kernels(sources: Path, machine: str) -> None:
    """Compile the kernels in a folder for all levels of a machine, to a folder in it.

    They are linked without an OpenMP runtime, since the process has PyTorch's when they are loaded.
    """
    levels = load_levels()
    compiler = shlex.split(os.environ.get("CXX") or COMPILERS[machine])
    folder = sources / levels.FOLDER
    folder.mkdir()
    made = []
    with tempfile.TemporaryDirectory() as temporary:
        for name, flags in levels.LIBRARIES[machine].items():
            compiled = Path(temporary, f"{name}.o")
            made.append(folder / f"{name}.so")
            # Without sized deallocation the libstdc++ of manylinux2014 suffices.
            flags = (*levels.FLAGS, *flags, "-fno-sized-deallocation")
            compile_ = [*compiler, *flags, "-c", sources / "kernels.cpp", "-o", compiled]
            link = [*compiler, "-shared", "-s", "-Wl,--as-needed", compiled, "-o", made[-1]]
            for command in (compile_, link):
                print(shlex.join(map(str, command)), flush=True)  # noqa: T201
                subprocess.run(command, check=True)
    levels.write_record(sources, made)


class BuildWithKernels(build_py):
    """Copies the package, and compiles the kernels in the copy."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        sources = Path(self.build_lib) / SOURCES
        shutil.rmtree(sources / load_levels().FOLDER, ignore_errors=True)  # of an earlier build in this folder
        if MACHINE:
            compile_kernels(sources, MACHINE)


class WheelWithKernels(bdist_wheel):
    """A wheel for a machine, and for every Python, since the kernels do not use its interface."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", f"linux_{MACHINE}") if MACHINE else super().get_tag()


class PackageWithKernels(Distribution):
    """A package that is installed where machine code belongs, if it has some."""

    def has_ext_modules(self) -> bool:
        return bool(MACHINE)


if __name__ == "__main__":
    setup(distclass=PackageWithKernels, cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelWithKernels})
