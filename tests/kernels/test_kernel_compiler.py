"""For any value of CXX, kernels are compiled, or a one-line error gives the reason and advice."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path

import pytest

from helpers.kernel_files import Kernel
from transxnet import ConfigError
from transxnet.kernels.cpu import build, compiler

has_float16 = build.has_float16.__wrapped__  # uncached: the cached value is for another compiler


def program(kernel: Kernel, text: str, *, version: str = "echo program 1") -> str:
    """Set CXX to a script that runs ``version`` for --version and ``text`` otherwise."""
    path = kernel.root / "a program"
    path.write_text(f'#!/bin/sh\nfor out; do :; done\ncase "$*" in *--version) {version} ;; *) {text} ;; esac\n')
    path.chmod(0o755)
    return shlex.quote(str(path))


def refusal(kernel: Kernel, message: str) -> None:
    """Check the one-line error, with CXX and advice, and that nothing is in the cache."""
    with pytest.raises(ConfigError, match=rf"^[^\n]*CXX=[^\n]*{message}[^\n]*leave out --fuse[^\n]*\Z") as caught:
        kernel.load()
    assert str(caught.value).isprintable()
    assert not kernel.folder.exists()


@pytest.mark.parametrize("given", ["", "  ", "g++ -DANSWER=42", "env LANG=C g++", "'g++'"])
def test_cxx_is_a_command_with_arguments(given: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", given)
    assert kernel.answer() == 42


def test_arguments_are_given_to_the_compiler(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels compiled without them have other entries in the cache."""
    assert kernel.answer() == 42
    monkeypatch.setenv("CXX", "g++ -DANSWER=7")
    assert kernel.answer() == 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('g++ "', "cannot be read: No closing quotation"),
        ("/", "is not an executable program"),
        ("not-there -O3", "is not an executable program"),
        ("./text", "is not an executable program"),
        ("./binary", "cannot be run: Exec format error"),
        ("true", "writes no library"),
        ("false", r"cannot be used: --version fails \("),
        ("sh -c exit", "cannot be used: --version fails"),
        ("cat", "cannot compile them: .*cat"),
        ("g++ -E", "produces a library that cannot be used: "),
        ("g++ --not-an-option", "cannot compile them: .*error: unrecognized"),
    ],
)
def test_programs_that_are_not_compilers_are_refused(
    given: str, message: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kernel.root)
    Path("text").write_text("#!/bin/sh\n")
    Path("binary").write_bytes(b"\x7fELF\0\0\0\0")
    Path("binary").chmod(0o755)
    monkeypatch.setenv("CXX", given)
    refusal(kernel, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("true", "writes no library"),
        ("mkfifo $out", "writes no library"),
        ("ln -s /dev/zero $out", "writes no library"),
        ("echo text > $out", "produces a library that cannot be used: "),
        ("truncate -s 99999999 $out", "writes a damaged library"),
        ('g++ "$@"; truncate -s 9000 $out', "writes a damaged library"),
        ('g++ -Danswer=other "$@"', "produces a library that cannot be used: it lacks answer"),
        (r"printf 'note\nan \033[31merror\n' >&2; exit 1", r"cannot compile them: an \\x1b\[31merror;"),
        ("kill -9 $$", r"cannot compile them: it prints nothing \(exit status -9\)"),
        ("head -c 3000000 /dev/zero", "prints more than 1 MiB"),
        ("yes >&2", "prints more than 1 MiB"),
    ],
)
def test_compilers_without_valid_output_are_refused(
    text: str, message: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", program(kernel, text))
    refusal(kernel, message)


WAITING = 'sleep 1000 & echo $! > "$PIDS"; echo started; wait'
"""A program that starts another one, which keeps the output open."""


@pytest.mark.parametrize("when", ["version", "compilation"])
def test_hanging_compilers_are_killed(when: str, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their subprocesses too."""
    processes = kernel.root / "processes"
    monkeypatch.setenv("PIDS", str(processes))
    if when == "version":
        monkeypatch.setattr(compiler, "QUERY_SECONDS", 2.0)
        monkeypatch.setenv("CXX", program(kernel, "true", version=WAITING))
    else:
        monkeypatch.setattr(compiler, "COMPILE_SECONDS", 2.0)
        monkeypatch.setenv("CXX", program(kernel, WAITING))
    refusal(kernel, "did not end within 2 seconds")
    other, tries = int(processes.read_text()), 1000
    while not ended(other) and tries:  # signals take a moment
        time.sleep(0.01)
        tries -= 1
    assert tries


def ended(process: int) -> bool:
    """Whether a process has ended, possibly as a zombie."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (ProcessLookupError, FileNotFoundError):
        return True


def test_compilers_get_no_input(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "COMPILE_SECONDS", 20.0)
    monkeypatch.setenv("CXX", program(kernel, 'cat; g++ "$@"'))
    before, (reading, writing) = os.dup(0), os.pipe()
    os.dup2(reading, 0)  # our own input never ends
    try:
        assert kernel.answer() == 42
    finally:
        os.dup2(before, 0)
        for descriptor in (before, reading, writing):
            os.close(descriptor)


def test_detection_of_float16(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"echo '#define __AVX512FP16__ 1'": True, "echo '#define OTHER'": False, "false": False}
    for text, expected in answers.items():
        monkeypatch.setenv("CXX", program(kernel, text))
        assert has_float16() is expected
    monkeypatch.setattr(compiler, "QUERY_SECONDS", 0.5)
    for text, message in (("sleep 1000", "did not end within 0.5 seconds"), ("yes", "prints more than 1 MiB")):
        monkeypatch.setenv("CXX", program(kernel, text))
        with pytest.raises(ConfigError, match=f"CXX=.*{message}"):
            has_float16()
    monkeypatch.setenv("CXX", "not-there")
    with pytest.raises(ConfigError, match="CXX='not-there' is not an executable program"):
        has_float16()
