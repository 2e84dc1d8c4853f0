"""The command ``transxnet``: runs the subcommand, and reports errors in one line."""

from __future__ import annotations

import atexit
import errno
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from transxnet.cli.streams import note, prepare_streams, say
from transxnet.console import discard
from transxnet.errors import ConfigError, TransXNetError
from transxnet.extras import require
from transxnet.files import FULL
from transxnet.interrupts import raise_again
from transxnet.training.processes import is_rank_zero
from transxnet.version import __version__

COMMANDS = {
    "train": "train on the embedded digits or scenes, your pictures, ImageNet, COCO or ADE20K",
    "eval": "evaluate a classifier, detector or segmenter on labelled images",
    "predict": "classify, detect or segment images",
    "serve": "serve a network over HTTP, with a page to try it on",
    "export": "write a network as a file for ONNX Runtime, OpenVINO or PyTorch",
    "erf": "draw which pixels a network's stages depend on",
    "gradcam": "draw where in an image a network's stages find a class",
    "bench": "compare the speed of networks",
    "compare": "train networks under one budget, with several seeds, and report which differ",
    "plot": "draw accuracy against cost, as figure 2 of the paper",
    "models": "list the networks, their size and their accuracy",
    "tables": "print the paper's tables beside our own counts",
    "data": "pack a folder of images into shards, or find its broken images",
    "convert": "turn a released checkpoint into a safetensors file",
    "publish": "write a folder for the Hugging Face Hub, with a model card",
}

_NEEDS = {
    "train": ("train",),
    "erf": ("analysis", "matplotlib"),
    "gradcam": ("analysis", "grad-cam", "matplotlib"),
    "compare": ("train",),
    "serve": ("serve",),
    "plot": ("analysis", "matplotlib"),
}
"""The extra of a command, and the packages of it that the command needs if not all."""

_LOST = (*FULL, errno.EFBIG, errno.EBADF, errno.EIO)
_SYSTEM = {
    errno.EROFS: "is on a read-only file system",
    errno.EACCES: "cannot be read or written by this user (permission denied)",
    errno.EPERM: "cannot be read or written by this user (operation not permitted)",
    errno.EFBIG: "cannot be written: it would be larger than this user or this file system may have files",
    errno.ENAMETOOLONG: "has a name that is too long",
    errno.EISDIR: "is a folder, not a file",
    errno.ENOTDIR: "is inside a file, not a folder",
    errno.ENOENT: "does not exist",
    errno.EMFILE: "cannot be opened: this process has too many open files (see `ulimit -n`)",
}
_EXAMPLES = """\
examples:
  transxnet train                                   train on the embedded digits, in minutes
  transxnet train --data photos                     train on your own classes
  transxnet predict cat.jpg --checkpoint transx-t.pth.tar
  transxnet models
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (something could not be read or printed) or 2 (a user's error)."""
    status: int | None = None
    with _ended_by_signals():
        try:
            raise_again()
            prepare_streams()
            status = _run(list(sys.argv[1:] if arguments is None else arguments))
        except KeyboardInterrupt:
            note("stopped")
            status = 130
            if arguments is None:
                _exit(status)
        finally:
            lost = _flushed()
    if status == 0 and lost:
        status = 1
    if status or arguments is None:
        sys.exit(status)


def _run(given: Sequence[str]) -> int:
    """Run a command line and return its exit status; an error is one line on standard error."""
    name = given[0] if given and not given[0].startswith("-") else ""
    program = f"transxnet {name}".strip()
    try:
        return _command(given)
    except TransXNetError as error:
        rank = "" if is_rank_zero() else f" (process {os.environ.get('RANK', os.environ.get('LOCAL_RANK'))})"
        message = error.for_commands
        note(message if message.startswith(f'"{program}') else f"{program}{rank}: {message}")
        return 2
    except BrokenPipeError:  # the reader of our output has closed it
        discard(sys.stdout)
        return 1
    except OSError as error:
        if error.errno in _LOST and not error.filename:  # only streams have no name
            discard(sys.stdout)
            note(f"{program}: cannot write to standard output: {error.strerror}")
            return 1
        if error.errno is None and not error.strerror:
            raise
        note(f"{program}: {_explained(error)}")
        return 2
    except ImportError as error:
        note(f"{program}: a library cannot be imported: {' '.join(str(error).split())}")
        return 2
    except (MemoryError, RecursionError) as error:
        what = "out of memory" if isinstance(error, MemoryError) else "the input is nested too deeply"
        note(f"{program}: {what}")
        return 2


def _command(given: Sequence[str]) -> int:
    """Run a subcommand, whose libraries are imported only now."""
    if given[:1] == ["--version"]:
        say(f"transxnet {__version__}")
        return 0
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0
    if given[0] not in COMMANDS:
        raise ConfigError(f"there is no such command; there are {', '.join(COMMANDS)}")
    if given[0] in _NEEDS:
        require(f'"transxnet {given[0]}"', *_NEEDS[given[0]])
    status: int = importlib.import_module(f"transxnet.cli.{given[0]}").run(given[1:])
    return status


def _explained(error: OSError) -> str:
    """An error of the operating system in words, with what to do."""
    name = error.filename or "a file"
    if error.errno in FULL:
        return f"cannot write {name}: {error.strerror}. Make room and run it again; training resumes with --resume"
    return f"{name} {_SYSTEM.get(error.errno or 0, f'cannot be used: {error.strerror}')}"


def _flushed() -> bool:
    """Flush standard output; returns whether that failed, which is reported."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard(sys.stdout)
        return True
    except (OSError, ValueError) as error:
        discard(sys.stdout)
        note(f"transxnet: cannot write to standard output: {getattr(error, 'strerror', None) or error}")
        return True
    return False


def _exit(status: int) -> NoReturn:
    """Exit with this status after an interrupt; Python may end by SIGINT, for which some programs wait otherwise."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _flushed()
    for child in multiprocessing.active_children():  # one that is starting would miss what is removed next
        child.kill()
    atexit._run_exitfuncs()
    os._exit(status)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, so that no half-written file is left behind.

    Training, which has more to save, replaces these handlers while it runs.
    """

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "".join(f"  {name:<{width}}  {about}\n" for name, about in COMMANDS.items())
    return (
        "usage: transxnet COMMAND [options]\n\nTransXNet: a vision backbone with global attention and dynamic "
        f"convolution in every block.\n\ncommands:\n{commands}\n"
        f"`transxnet COMMAND --help` lists a command's options.\n\n{_EXAMPLES}"
    )
