"""The machine's C++ compiler, found and run with limits on its time and output."""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from transxnet.errors import ConfigError
from transxnet.files import open_regular
from transxnet.kernels.cpu.shared_library import LARGEST, private_folder

QUERY_SECONDS = 20.0
COMPILE_SECONDS = 300.0
_LARGEST_OUTPUT = 1 << 20  # bytes that a compiler may print
_INSTEAD = (
    "install g++ (on Debian, apt install g++), or name a C++ compiler in CXX; to do without native kernels, leave out "
    "--fuse (in Python, native=True)"
)


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Attributes:
        command: The path of the program, and the arguments that CXX gives it.
        label: Its name in messages: what CXX says, or the path of the compiler found without CXX.
    """

    command: tuple[str, ...]
    label: str

    def error(self, reason: str) -> ConfigError:
        """An error of one line with the compiler, what is wrong with it, and what to do."""
        return ConfigError(f"the native kernels need a C++ compiler, and {self.label} {reason}; {_INSTEAD}")


def find_compiler() -> Compiler:
    """The compiler that the environment's CXX names, with arguments if it has any, or g++, c++ or clang++.

    Raises:
        ConfigError: If there is none.
    """
    if os.name != "posix":
        raise ConfigError(f"there are no native kernels for {sys.platform}: leave out --fuse (in Python, native=True)")
    given = os.environ.get("CXX", "")
    label = f"CXX={given[:200]!r}"
    try:
        words = shlex.split(given)
    except ValueError as error:  # a quotation without its end
        raise Compiler((), label).error(f"cannot be read: {error}") from None
    if not words:
        found = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
        if found is None:
            raise ConfigError(f"the native kernels need a C++ compiler, and there is none: {_INSTEAD}")
        return Compiler((found,), found)
    program = shutil.which(words[0])
    if program is None:
        raise Compiler((), label).error("names no program that can be run here")
    return Compiler((program, *words[1:]), label)


def version(compiler: Compiler) -> str:
    """The first line that a compiler prints of its version.

    Raises:
        ConfigError: If there is none.
    """
    done = run(compiler, ["--version"], QUERY_SECONDS)
    lines = [line for line in (done.stdout + b"\n" + done.stderr).splitlines() if line.strip()]
    if done.returncode or not lines:
        raise compiler.error(f"is none that can be used: --version fails ({_failure(done)})")
    return lines[0].decode(errors="replace")


def macros(compiler: Compiler, flags: Sequence[str]) -> str:
    """The macros that a compiler defines with some flags; none, if it cannot say.

    Raises:
        ConfigError: If it cannot be run, takes too long or prints too much.
    """
    done = run(compiler, [*flags, "-dM", "-E", "-x", "c", os.devnull], QUERY_SECONDS)
    return "" if done.returncode else done.stdout.decode(errors="replace")


def compiled(compiler: Compiler, flags: Sequence[str], source: Path) -> bytes:
    """The shared library that a compiler makes of a source file, in a private temporary folder that is removed.

    Raises:
        ConfigError: If it makes none.
    """
    with private_folder() as folder:
        path = folder / "kernels.so"
        done = run(compiler, [*flags, str(source), "-o", str(path)], COMPILE_SECONDS, folder)
        if done.returncode:
            raise compiler.error(f"cannot compile them: {_failure(done)}")
        try:
            with open_regular(path, follow_links=False) as file:
                data = file.read(LARGEST + 1)
        except OSError:
            raise compiler.error("compiles without an error, but writes no library") from None
    if len(data) > LARGEST or not _is_whole(data):
        raise compiler.error("writes a library that is damaged")
    return data


def run(
    compiler: Compiler, arguments: Sequence[str], seconds: float, temporary: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a compiler without input; it and all that it has started are ended if it takes too long or prints too much.

    Args:
        compiler: The compiler.
        arguments: What it is given.
        seconds: How long it may take.
        temporary: Where it may keep temporary files.

    Raises:
        ConfigError: If it cannot be started, takes too long or prints too much.
    """
    command = [*compiler.command, *arguments]
    environment = os.environ | ({} if temporary is None else {"TMPDIR": str(temporary)})
    end = time.monotonic() + seconds
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise compiler.error(f"cannot be run: {error.strerror}") from None
    with process:
        try:
            stdout, stderr = _printed(process, end)
            process.wait(max(0.0, end - time.monotonic()))
        except BaseException as error:
            _end(process)
            if isinstance(error, TimeoutError | subprocess.TimeoutExpired):
                raise compiler.error(f"did not end within {seconds:g} seconds") from None
            if isinstance(error, _TooMuch):
                raise compiler.error(f"prints more than {_LARGEST_OUTPUT >> 20} MiB") from None
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


class _TooMuch(Exception):  # noqa: N818 (not an error of this program)
    pass


def _printed(process: subprocess.Popen[bytes], end: float) -> tuple[bytes, bytes]:
    """What a process prints until it closes both streams; TimeoutError after the time ``end``."""
    descriptors = [cast(IO[bytes], stream).fileno() for stream in (process.stdout, process.stderr)]
    printed = {descriptor: bytearray() for descriptor in descriptors}
    with selectors.DefaultSelector() as selector:
        for descriptor in descriptors:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for key, _ in selector.select(left):
                some = os.read(key.fd, 1 << 16)
                printed[key.fd] += some
                if not some:
                    selector.unregister(key.fd)
                if len(printed[key.fd]) > _LARGEST_OUTPUT:
                    raise _TooMuch
    stdout, stderr = (bytes(printed[descriptor]) for descriptor in descriptors)
    return stdout, stderr


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # not waited for: its number, which is its group's, is still its own
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS denies it for a process that has ended
            process.kill()


def _failure(done: subprocess.CompletedProcess[bytes]) -> str:
    """The first error that a compiler prints, or its first line, in printable characters."""
    lines = [line.strip() for line in (done.stderr + b"\n" + done.stdout).decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        return f"it prints nothing (exit status {done.returncode})"
    return printable(next((line for line in lines if "error" in line.lower()), lines[0]))


def printable(text: str) -> str:
    """At most 300 characters of a text, without those that control a terminal."""
    return "".join(one if one.isprintable() else "?" for one in text[:300])


def _is_whole(library: bytes) -> bool:
    """Whether a library of 64 bits is as long as it says: loading a part of one can end the process.

    The table of sections is the last thing that linkers write. Other files are left to the loader.
    """
    if library[:6] != b"\x7fELF\x02\x01" or len(library) < 64:
        return True
    start, size, count = (*struct.unpack_from("<Q", library, 40), *struct.unpack_from("<2H", library, 58))
    return bool(start + size * count <= len(library))
