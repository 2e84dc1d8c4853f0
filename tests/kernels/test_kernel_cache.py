"""Compiled kernels are loaded from the cache only if no other user can have written them."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import pwd
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.kernel_files import FLAGS, Kernel, record
from transxnet import ConfigError
from transxnet.kernels.cpu import build, cache, layouts, numbers
from transxnet.kernels.cpu import shared_library as loading
from transxnet.kernels.cpu.compiler import find_compiler

PLANTED = """
#include <cstdio>
#include <cstdlib>
__attribute__((constructor)) void run() { std::fclose(std::fopen(std::getenv("MARKER"), "w")); }
extern "C" int answer() { return 13; }
"""


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A library like ours that writes the file named by MARKER when it is loaded."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "planted.cpp").write_text(PLANTED)
    subprocess.run(["g++", *FLAGS, "planted.cpp", "-o", "planted.so"], cwd=folder, check=True)
    return (folder / "planted.so").read_bytes()


def change_bit(entry: Path) -> None:
    library = bytearray(entry.read_bytes())
    library[-1] ^= 1
    entry.write_bytes(library)


def link(path: Path) -> None:
    path.symlink_to(path.rename(path.parent.parent / "elsewhere"))


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_kernels_are_compiled_once(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is writable only for its user."""
    assert kernel.answer() == 42
    assert stat.S_IMODE(kernel.folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in kernel.folder.iterdir()] == [0o600, 0o600]
    monkeypatch.setattr(build, "compiled", None)
    assert kernel.answer() == 42


def test_a_valid_planted_library_is_loaded(kernel: Kernel, planted: bytes) -> None:
    """A valid entry is loaded, so in the tests below it is the change that prevents loading."""
    kernel.plant(planted)
    assert kernel.answer() == 13
    assert kernel.marker.exists()


ENTRIES: dict[str, Callable[[Path], Any]] = {
    "group can write": lambda entry: entry.chmod(0o660),
    "others can write": lambda entry: entry.chmod(0o602),
    "others can write the record": lambda entry: record(entry).chmod(0o602),
    "symbolic link": link,
    "record is a symbolic link": lambda entry: link(record(entry)),
    "pipe": replace_by_pipe,
    "changed bit": change_bit,
    "truncated": lambda entry: os.truncate(entry, 5000),
    "longer": lambda entry: entry.write_bytes(entry.read_bytes() + b"x"),
    "empty": lambda entry: entry.write_bytes(b""),
    "text": lambda entry: entry.write_text("no library"),
    "too large": lambda entry: os.truncate(entry, loading.MAX_BYTES + 1),
    "no record": lambda entry: record(entry).unlink(),
    "empty record": lambda entry: record(entry).write_bytes(b""),
    "odd record": lambda entry: record(entry).write_text("all is well\n"),
    "long record": lambda entry: record(entry).write_text(record(entry).read_text() * 1000),
}


@pytest.mark.parametrize("doubt", ENTRIES)
def test_an_untrusted_entry_is_replaced(
    doubt: str, kernel: Kernel, planted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ENTRIES[doubt](kernel.plant(planted))
    assert kernel.answer() == 42
    assert not kernel.marker.exists()
    monkeypatch.setattr(build, "compiled", None)
    assert kernel.answer() == 42


@pytest.mark.filterwarnings("ignore:compiled kernels cannot be cached")  # if the folder also belongs to another user
@pytest.mark.parametrize("part", ["entry", "record", "folder"])
def test_nothing_of_another_user_is_loaded(
    part: str, kernel: Kernel, planted: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = kernel.plant(planted)
    if os.geteuid() == 0:
        os.chown({"entry": entry, "record": record(entry), "folder": kernel.folder}[part], 12345, -1)
    else:  # without the right to change owners, become another user
        owner = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert kernel.answer() == 42
    assert not kernel.marker.exists()


FOLDERS: dict[str, Callable[[Kernel], Any]] = {
    "group can write": lambda kernel: kernel.folder.chmod(0o770),
    "others can write": lambda kernel: kernel.folder.chmod(0o1777),
    "symbolic link": lambda kernel: link(kernel.folder),
}


@pytest.mark.parametrize("doubt", FOLDERS)
def test_an_untrusted_folder_is_not_used(doubt: str, kernel: Kernel, planted: bytes) -> None:
    kernel.plant(planted)
    FOLDERS[doubt](kernel)
    before = {path: path.read_bytes() for path in kernel.folder.iterdir()}
    with pytest.warns(UserWarning, match="compiled kernels cannot be cached"):
        assert kernel.answer() == 42
    assert not kernel.marker.exists()
    assert {path: path.read_bytes() for path in kernel.folder.iterdir()} == before


@pytest.mark.parametrize("file", ["cache", "cache/transxnet", "cache/transxnet/kernels"])
def test_a_file_for_a_folder(file: str, kernel: Kernel) -> None:
    path = kernel.root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    with pytest.warns(UserWarning, match="compiled kernels cannot be cached"):
        assert kernel.answer() == 42
    assert path.read_text() == "mine"


@pytest.mark.parametrize("home", [None, "", "relative", "/not/there"])
def test_without_a_home(home: str | None, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """For users with and without an entry in the password database."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.chdir(kernel.root)
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    else:
        monkeypatch.setenv("HOME", home)
    with pytest.warns(UserWarning, match="cannot be cached.*no home folder.*set XDG_CACHE_HOME"):
        assert kernel.answer() == 42
    assert not (kernel.root / "relative").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
def test_a_home_that_cannot_be_written(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/proc")
    with pytest.warns(UserWarning, match="compiled kernels cannot be cached"):
        assert kernel.answer() == 42


def test_a_relative_cache_is_ignored(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kernel.root)
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(kernel.root))
    assert kernel.answer() == 42
    assert not (kernel.root / "cache").exists()
    assert len(list((kernel.root / ".cache" / "transxnet" / "kernels").iterdir())) == 2


def test_a_full_disk(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the disk of the cache, and on that of temporary files, which is a one-line error."""

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(UserWarning, match="cannot be cached.*No space left on device"):
        assert kernel.answer() == 42
    assert list(kernel.folder.iterdir()) == []
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(ConfigError, match=r"^.*No space left on device.*: set TMPDIR to .*leave out --fuse.*$"):
        kernel.load()


@pytest.mark.parametrize(
    "memory",
    [pytest.param(True, marks=pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="not on Linux")), False],
    ids=["memory", "file"],
)
def test_a_library_in_use_does_not_change(memory: bool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither with its file nor when another one is loaded, from memory or not."""
    if memory:
        monkeypatch.setattr(loading, "private_folder", None)
    else:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    assert kernel.answer() == 42
    loaded = kernel.load()
    os.truncate(kernel.entry(), 0)
    kernel.header.write_text("#define ANSWER 43\n")
    assert kernel.answer() == 43
    assert loaded.answer() == 42


def test_the_key_covers_what_a_library_depends_on(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []

    def key(*flags: str) -> None:
        keys.append(build._key(find_compiler(), flags, kernel.source))

    key()
    key("-O1")
    kernel.header.write_text("#define ANSWER 43\n")
    key()
    kernel.source.write_text('#include "answer.h"\n')
    key()
    monkeypatch.setenv("CXX", "g++ -m64")
    key()
    for name, value in (("version", "g++ 99"), ("_processor", "another")):
        monkeypatch.setattr(build, name, lambda *_, value=value: value)
        key()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "99"))
    key()
    assert len(set(keys)) == len(keys) == 8
    key()
    assert keys[-1] == keys[-2]


def test_whether_kernels_are_to_be_compiled(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_prebuilt", dict)
    assert not build.is_ready()
    source = Path(build.__file__).with_name("kernels.cpp")
    assert cache.keep(build._entry(find_compiler(), build._FLAGS, source), b"kernels") is None
    assert build.is_ready()
    monkeypatch.setenv("CXX", "no-compiler")
    with pytest.raises(ConfigError, match="no-compiler"):
        build.is_ready()
    monkeypatch.setattr(build, "_prebuilt", lambda: {False: None})
    assert build.is_ready()


@pytest.mark.slow
def test_two_processes_at_once(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both compile at the same time; both get a library, and the cache is intact."""
    compiler = kernel.root / "compiler"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *--version) ;; *) touch {kernel.root}/at.$$\n'
        f'while [ $(ls -d {kernel.root}/at.* | wc -l) -lt 2 ]; do sleep 0.05; done ;; esac\nexec g++ "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TMPDIR", str(kernel.temporary))
    program = (
        "import sys; from pathlib import Path; from transxnet.kernels.cpu import build\n"
        f"assert build.built(Path(sys.argv[1]), {FLAGS}, lambda _: None).answer() == 42"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(kernel.source)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    monkeypatch.setattr(build, "compiled", None)
    assert kernel.answer() == 42


class Bias(ctypes.Structure):
    """Smaller than the kernels' structure of this name."""

    _fields_ = [("map", ctypes.c_void_p)]


def test_the_packages_kernels_come_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are checked: if a function is missing or a structure has another size, they are compiled again."""
    build.library()
    monkeypatch.setattr(build, "compiled", None)
    again = build._library.__wrapped__
    assert again(False).block_room
    with pytest.raises(ConfigError, match="does not support float64: use another type"):
        numbers.function("blocks_float64", torch.float32)
    for module, name, value in ((build, "_SYMBOLS", ["not_there"]), (layouts, "SHARED", [Bias])):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            with pytest.raises(TypeError, match="not callable"):  # it would be compiled
                again(False)
