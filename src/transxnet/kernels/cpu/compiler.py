"""Finding the machine's C++ compiler, and running it with limits on time and output."""

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
from transxnet.kernels.cpu.shared_library import MAX_BYTES, private_folder
from transxnet.text import printable

QUERY_SECONDS = 20.0
COMPILE_SECONDS = 300.0
_MAX_OUTPUT = 1 << 20  # bytes that a compiler may print
_ADVICE = (
    "install g++ (on Debian, apt install g++), or set CXX to a C++ compiler; to do without native kernels, leave out "
    "--fuse (in Python, native=True)"
)


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Attributes:
        command: The path of the program, and its arguments from CXX.
        label: Its name in messages: the value of CXX, or the path of the compiler found without CXX.
    """

    command: tuple[str, ...]
    label: str

    def error(self, reason: str) -> ConfigError:
        """A one-line error with the compiler, the problem, and what to do."""
        return ConfigError(f"the native kernels need a C++ compiler, and {self.label} {reason}; {_ADVICE}")


def find_compiler() -> Compiler:
    """Find the compiler set in the environment variable CXX, with its arguments, or g++, c++ or clang++.

    Raises:
        ConfigError: If there is none, or there are no kernels for the operating system.
    """
    if os.name != "posix" or sys.platform == "darwin":  # Apple's compiler has no OpenMP
        raise ConfigError(f"there are no native kernels for {sys.platform}: leave out --fuse (in Python, native=True)")
    given = os.environ.get("CXX", "")
    label = f"CXX={given[:200]!r}"
    try:
        words = shlex.split(given)
    except ValueError as error:  # an unclosed quotation
        raise Compiler((), label).error(f"cannot be read: {error}") from None
    if not words:
        found = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
        if found is None:
            raise ConfigError(f"the native kernels need a C++ compiler, and there is none: {_ADVICE}")
        return Compiler((found,), found)
    program = shutil.which(words[0])
    if program is None:
        raise Compiler((), label).error("is not an executable program")
    return Compiler((program, *words[1:]), label)


def version(compiler: Compiler) -> str:
    """The first line of a compiler's version.

    Raises:
        ConfigError: If there is none.
    """
    done = run(compiler, ["--version"], QUERY_SECONDS)
    lines = [line for line in (done.stdout + b"\n" + done.stderr).splitlines() if line.strip()]
    if done.returncode or not lines:
        raise compiler.error(f"cannot be used: --version fails ({_failure(done)})")
    return lines[0].decode(errors="replace")


def macros(compiler: Compiler, flags: Sequence[str]) -> str:
    """The macros that a compiler defines with some flags; empty if it cannot list them.

    Raises:
        ConfigError: If it cannot be run, takes too long or prints too much.
    """
    done = run(compiler, [*flags, "-dM", "-E", "-x", "c", os.devnull], QUERY_SECONDS)
    return "" if done.returncode else done.stdout.decode(errors="replace")


def compiled(compiler: Compiler, flags: Sequence[str], source: Path) -> bytes:
    """Compile a source file to a shared library, in a private temporary folder that is removed.

    Raises:
        ConfigError: If that fails.
    """
    with private_folder() as folder:
        path = folder / "kernels.so"
        done = run(compiler, [*flags, str(source), "-o", str(path)], COMPILE_SECONDS, folder)
        if done.returncode:
            raise compiler.error(f"cannot compile them: {_failure(done)}")
        try:
            with open_regular(path, follow_links=False) as file:
                data = file.read(MAX_BYTES + 1)
        except OSError:
            raise compiler.error("compiles without an error, but writes no library") from None
    if len(data) > MAX_BYTES or not _is_complete(data):
        raise compiler.error("writes a damaged library")
    return data


def run(
    compiler: Compiler, arguments: Sequence[str], seconds: float, temporary: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a compiler without input; it and its subprocesses are killed if it takes too long or prints too much.

    Args:
        compiler: The compiler.
        arguments: Its arguments.
        seconds: Time limit.
        temporary: Folder for its temporary files.

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
            if isinstance(error, _TooMuchOutput):
                raise compiler.error(f"prints more than {_MAX_OUTPUT >> 20} MiB") from None
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


class _TooMuchOutput(Exception):  # noqa: N818 (not an error of this program)
    pass


def _printed(process: subprocess.Popen[bytes], end: float) -> tuple[bytes, bytes]:
    """Read the output of a process until it closes both streams; raises TimeoutError after the time ``end``."""
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
                if len(printed[key.fd]) > _MAX_OUTPUT:
                    raise _TooMuchOutput
    stdout, stderr = (bytes(printed[descriptor]) for descriptor in descriptors)
    return stdout, stderr


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # not reaped, so its id, also that of its group, cannot have been reused
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # raised by macOS for a process that has ended
            process.kill()


def _failure(done: subprocess.CompletedProcess[bytes]) -> str:
    """The first error in a compiler's output, or its first line, in printable characters."""
    lines = [line.strip() for line in (done.stderr + b"\n" + done.stdout).decode(errors="replace").splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        return f"it prints nothing (exit status {done.returncode})"
    return short(next((line for line in lines if "error" in line.lower()), lines[0]))


def short(text: str) -> str:
    """At most 300 characters of a text, with control characters escaped."""
    return printable(text[:300])


def _is_complete(library: bytes) -> bool:
    """Whether a 64-bit library is complete; loading a truncated one can crash the process.

    The section table is the last part that linkers write. Other files are left to the loader.
    """
    if library[:6] != b"\x7fELF\x02\x01" or len(library) < 64:
        return True
    start, size, count = (*struct.unpack_from("<Q", library, 40), *struct.unpack_from("<2H", library, 58))
    return bool(start + size * count <= len(library))
