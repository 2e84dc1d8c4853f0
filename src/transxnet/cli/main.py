"""The command ``transxnet``: finds the subcommand, and turns mistakes into one line."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from transxnet.errors import TransXNetError
from transxnet.training.processes import is_first
from transxnet.version import __version__

COMMANDS = {
    "train": "learn: the embedded digits or scenes, your pictures, ImageNet, COCO, ADE20K",
    "eval": "judge a classifier, detector or segmenter on labelled images",
    "predict": "say what is on images, and where",
    "export": "write a network as a file for ONNX Runtime, OpenVINO or PyTorch",
    "erf": "picture which pixels a network's stages depend on",
    "gradcam": "picture where in an image a network's stages find a class",
    "bench": "measure the speed of networks in turns",
    "compare": "train networks under one budget, with several seeds, and tell which differ",
    "plot": "draw accuracy against cost, as figure 2 of the paper",
    "models": "list the networks, their size and their accuracy",
    "tables": "the paper's tables beside our own counts",
    "data": "pack a folder of images into shards, or find its broken images",
    "convert": "turn a released checkpoint into a safetensors file",
}

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
_EXAMPLES = """\
examples:
  transxnet train                                   learn the embedded digits, in minutes
  transxnet train --data photos                     learn your own classes
  transxnet predict cat.jpg --checkpoint transx-t.pth.tar
  transxnet models
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, 1 (something could not be read) or 2 (a mistake)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        sys.stdout.write(f"transxnet {__version__}\n")
        return
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if given[0] not in COMMANDS:
        console.print(f"transxnet: there is no command {given[0]!r}; there are {', '.join(COMMANDS)}", markup=False)
        sys.exit(2)
    # A subcommand's libraries are imported only when it runs.
    command = importlib.import_module(f"transxnet.cli.{given[0]}")
    try:
        status = command.run(given[1:])
    except TransXNetError as error:
        where = "" if is_first() else f" (process {os.environ.get('RANK', os.environ.get('LOCAL_RANK'))})"
        console.print(f"transxnet {given[0]}{where}: {error}", markup=False)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        place = f" ({error.filename})" if error.filename else ""
        console.print(f"transxnet {given[0]}: cannot write: {error.strerror}{place}. Make room and run it again; a "
                      "training run goes on with --resume", markup=False)  # fmt: skip
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("stopped")
        sys.exit(130)
    sys.exit(status)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "".join(f"  {name:<{width}}  {about}\n" for name, about in COMMANDS.items())
    return (
        "usage: transxnet COMMAND [options]\n\nTransXNet: a vision backbone with global attention and dynamic "
        f"convolution in every block.\n\ncommands:\n{commands}\n"
        f"`transxnet COMMAND --help` tells a command's options.\n\n{_EXAMPLES}"
    )
