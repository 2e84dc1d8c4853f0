"""A wheel's kernels are used if they suit processor and sources; otherwise kernels are compiled."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers.kernel_files import FLAGS, Kernel
from transxnet import ConfigError, kernels
from transxnet.kernels.cpu import build, compiler, levels, openmp, prebuilt
from transxnet.training.recipe import Recipe
from transxnet.training.trainer import kernel_policy

ROOT = Path(__file__).parents[2]
V2 = "fpu pni ssse3 cx16 sse4_1 sse4_2 popcnt lahf_lm"
V3 = f"{V2} movbe xsave avx f16c fma abm bmi1 bmi2 avx2"
V4 = f"{V3} avx512f avx512dq avx512cd avx512bw avx512vl"
PROCESSORS = {
    "Nehalem": (f"flags : {V2}\n", None),
    "Haswell": (f"flags\t\t: {V3}\nbugs : avx512f\n", "avx2"),
    "Knights Landing": (f"flags : {V3} avx512f avx512cd avx512er avx512pf\n", "avx2"),
    "Skylake-SP": (f"flags : {V4}\n", "avx512"),
    "Sapphire Rapids": (f"flags : {V4} avx512_fp16 amx_tile\n" * 2, "avx512-fp16"),
    "virtual machine without AVX": (f"flags : {V2} abm bmi1 bmi2 avx512_fp16\n", None),
    "unequal cores": (f"flags : {V4}\nmodel : 2\nflags : {V3}\n", "avx2"),
    "no flags": ("processor : 0\n", None),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_highest_level_of_a_processor_is_chosen(name: str) -> None:
    cpuinfo, expected = PROCESSORS[name]
    level = levels.level_of("x86_64", levels.processor_flags(cpuinfo))
    assert (level and (level.float16 or level.float32)) == expected
    assert levels.level_of("riscv64", levels.processor_flags(cpuinfo)) is None
    arm = levels.level_of("aarch64", levels.processor_flags("Features\t: fp asimd evtstrm aes crc32\n"))
    assert arm is not None and (arm.float32, arm.float16) == ("neon", None)


MACROS = {"SSE3": "pni", "LZCNT": "abm", "BMI": "bmi1", "AVX512FP16": "avx512_fp16", "LAHF_SAHF": "lahf_lm"}
"""Names of the compiler's macros for features that /proc/cpuinfo calls otherwise."""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compares the flags of x86-64")
def test_a_level_requires_all_that_the_compiler_uses() -> None:
    for level in levels.LEVELS["x86_64"]:
        for name in filter(None, (level.float32, level.float16)):
            macros = _macros(levels.LIBRARIES["x86_64"][name]) - _macros(())
            used = {MACROS.get(macro, macro.lower()) for macro in macros if not macro.startswith("tune_")}
            assert {"avx2", "fma", "f16c"} < used
            assert used - {"crc32", "evex512"} <= level.flags  # parts of SSE4.2 and AVX-512, with no flags of their own


def _macros(flags: tuple[str, ...]) -> set[str]:
    done = subprocess.run(
        ["g++", *flags, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=True
    )
    return set(re.findall(r"^#define __(\w+)__ 1$", done.stdout, re.MULTILINE))


@pytest.fixture(scope="session")
def answering(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Libraries that return 13 and 14."""
    folder = tmp_path_factory.mktemp("answering")
    (folder / "kernels.cpp").write_text('extern "C" int answer() { return ANSWER; }\n')
    for name, answer in (("here", 13), ("here-fp16", 14)):
        command = ["g++", *FLAGS, f"-DANSWER={answer}", str(folder / "kernels.cpp"), "-o", str(folder / f"{name}.so")]
        subprocess.run(command, check=True)
    return {path.name: path.read_bytes() for path in folder.glob("*.so")}


@pytest.fixture
def wheel(kernel: Kernel, answering: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """The small kernel as a wheel has it, with a library that returns 13, unlike its sources."""
    cached = (build._prebuilt, build._library, build.has_float16)
    monkeypatch.setattr(build, "files", lambda package: kernel.source.parent)
    monkeypatch.setattr(build, "_check", lambda float16, library: build.check_symbols(library, ["answer"]))
    monkeypatch.setattr(prebuilt, "_level", lambda: levels.Level(frozenset(), "here", "here-fp16"))
    for each in cached:
        each.cache_clear()
    folder = kernel.source.parent / levels.FOLDER
    folder.mkdir()
    for name, library in answering.items():
        (folder / name).write_bytes(library)
    levels.write_record(kernel.source.parent, [folder / name for name in answering])
    yield kernel
    for each in cached:
        each.cache_clear()


def test_neither_compiler_nor_cache_is_needed(wheel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "not-there")
    with warnings.catch_warnings(action="error"):
        assert build.library().answer() == 13
        assert build.has_float16()
        assert build.library(float16=True).answer() == 14
        assert kernels.native_available()
    assert not (wheel.root / "cache").exists()


def test_a_processor_without_a_level_compiles(wheel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebuilt, "_level", lambda: None)
    assert build.library().answer() == 42


@pytest.mark.parametrize("value", ["1", "0", "", "yes"])
def test_the_environment_can_ask_for_the_compiler(value: str, wheel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSXNET_COMPILE_KERNELS", value)
    if value == "yes":
        with pytest.raises(ConfigError, match="variable TRANSXNET_COMPILE_KERNELS is 0 or 1, not 'yes'"):
            build.library()
    else:
        assert build.library().answer() == (42 if value == "1" else 13)


def change_bit(library: Path) -> None:
    content = bytearray(library.read_bytes())
    content[-1] ^= 1
    library.write_bytes(content)


def replace(library: Path, content: bytes) -> None:
    """Replace a library by another one, and its digest in the record."""
    library.write_bytes(content)
    record = json.loads((library.parent / levels.RECORD).read_text())
    record["libraries"][library.stem] = hashlib.sha256(content).hexdigest()
    change_record(library.parent, libraries=record["libraries"])


def change_record(folder: Path, **values: Any) -> None:
    record = json.loads((folder / levels.RECORD).read_text())
    (folder / levels.RECORD).write_text(json.dumps(record | values))


DOUBTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another source": (lambda folder: (folder.parent / "answer.h").write_text("#define ANSWER 42\n"), "other sources"),
    "another header": (lambda folder: (folder.parent / "more.h").touch(), "other sources"),
    "changed bit": (lambda folder: change_bit(folder / "here.so"), "here.so is damaged"),
    "truncated": (lambda folder: os.truncate(folder / "here-fp16.so", 5000), "here-fp16.so is damaged"),
    "missing": (lambda folder: (folder / "here.so").unlink(), "No such file"),
    "not recorded": (
        lambda folder: levels.write_record(folder.parent, [folder / "here.so"]),
        "here-fp16.so is damaged",
    ),
    "a record of lists": (lambda folder: change_record(folder, libraries=["here"]), "is damaged"),
    "no library": (lambda folder: replace(folder / "here.so", b"text"), "invalid ELF header|file too short"),
    "another library": (
        lambda folder: replace(folder / "here.so", (folder / "here.so").read_bytes().replace(b"answer", b"banswe")),
        "it lacks answer",
    ),
    "no record": (lambda folder: (folder / levels.RECORD).unlink(), "No such file"),
    "empty record": (lambda folder: (folder / levels.RECORD).write_text(""), "record.json is damaged"),
    "odd record": (lambda folder: (folder / levels.RECORD).write_text("[]"), "record.json is damaged"),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_doubtful_libraries_are_replaced_with_a_remark(
    doubt: str, wheel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all libraries none is used. Without a compiler, kernels are PyTorch's."""
    damage, reason = DOUBTS[doubt]
    damage(wheel.source.parent / levels.FOLDER)
    monkeypatch.setenv("CXX", "not-there")
    with pytest.warns(UserWarning, match=f"cannot be used .*({reason}).*are compiled here"):
        assert kernel_policy(Recipe(""), "cpu") == "reference"
    monkeypatch.delenv("CXX")
    with warnings.catch_warnings(action="error"):  # warned once, above
        assert build.library().answer() == 42


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_use_pytorchs_kernels(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an error and without looking for a compiler."""
    for each in (build._prebuilt, build._library):
        monkeypatch.setattr(build, each.__name__, functools.cache(each.__wrapped__))
    monkeypatch.setattr(compiler, "sys", SimpleNamespace(platform=system))
    monkeypatch.setattr(compiler, "os", SimpleNamespace(name="nt" if system == "win32" else "posix"))
    monkeypatch.setattr(prebuilt, "_level", lambda: None)  # there is no /proc/cpuinfo
    assert kernel_policy(Recipe(""), "cpu") == "reference"
    with pytest.raises(ConfigError, match=f"no native kernels for {system}: leave out --fuse"):
        build.library()


def test_pytorchs_openmp_is_made_visible(tmp_path: Path) -> None:
    """If the library that depends on it is loaded with its names to itself."""
    for name, source, more in (
        ("runtime", 'extern "C" int transxnet_test_entry() { return 5; }', ()),
        ("extension", 'extern "C" int transxnet_test_entry(); int other() { return transxnet_test_entry(); }',
         (tmp_path / "runtime.so",)),
        ("ours", 'extern "C" int transxnet_test_entry(); extern "C" int ask() { return transxnet_test_entry(); }', ()),
    ):  # fmt: skip
        (tmp_path / f"{name}.cpp").write_text(source)
        subprocess.run(["g++", *FLAGS, tmp_path / f"{name}.cpp", *more, "-o", tmp_path / f"{name}.so"], check=True)
    extension = ctypes.CDLL(str(tmp_path / "extension.so"))
    with pytest.raises(OSError, match="undefined symbol: transxnet_test_entry"):
        ctypes.CDLL(str(tmp_path / "ours.so"))
    openmp.share(extension._name, "transxnet_test_entry")
    assert ctypes.CDLL(str(tmp_path / "ours.so")).ask() == 5


@pytest.fixture
def setup_py(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """The build, with the parameter as TRANSXNET_WHEEL_KERNELS."""
    monkeypatch.setenv("TRANSXNET_WHEEL_KERNELS", request.param)
    spec = importlib.util.spec_from_file_location("transxnet_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("setup_py", "tag"),
    [("", ("py3", "none", "any")), ("x86_64", ("py3", "none", "linux_x86_64")),
     ("aarch64", ("py3", "none", "linux_aarch64"))],
    indirect=["setup_py"],
)  # fmt: skip
def test_wheels_are_tagged_by_what_they_hold(setup_py: Any, tag: tuple[str, ...]) -> None:
    command = setup_py.WheelWithKernels(setup_py.PackageWithKernels({"name": "transxnet"}))
    command.ensure_finalized()
    assert command.get_tag() == tag
    assert command.root_is_pure == (tag[2] == "any")


@pytest.mark.parametrize("setup_py", ["x86_64"], indirect=True)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compiles for x86-64")
def test_a_build_compiles_for_all_levels(setup_py: Any, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that name no OpenMP runtime to load beside PyTorch's."""
    text = '#include "answer.h"\nextern "C" int answer() {\n  int sum = 0;\n#pragma omp parallel reduction(+ : sum)\n'
    kernel.source.write_text(f"{text}  sum += ANSWER;\n  return sum;\n}}\n")
    monkeypatch.setattr(setup_py.tempfile, "tempdir", str(kernel.temporary))
    setup_py.compile_kernels(kernel.source.parent, "x86_64")
    folder = kernel.source.parent / levels.FOLDER
    names = {f"{name}.so" for name in levels.LIBRARIES["x86_64"]}
    assert {path.name for path in folder.iterdir()} == names | {levels.RECORD}
    for name in names:
        assert b"GOMP_parallel" in (folder / name).read_bytes()
        assert b"libgomp" not in (folder / name).read_bytes()
    for level in levels.LEVELS["x86_64"]:
        monkeypatch.setattr(prebuilt, "_level", lambda level=level: level)
        assert set(prebuilt.libraries(kernel.source.parent)) == ({False, True} if level.float16 else {False})
