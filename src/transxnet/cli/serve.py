"""``transxnet serve``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from transxnet.bounds import (
    BatchSize,
    Port,
)
from transxnet.cli.parsing import CommandParser, add_network_arguments, network_settings
from transxnet.cli.streams import say
from transxnet.errors import ConfigError
from transxnet.inference.runtimes import is_exported
from transxnet.serve.engine import Engine
from transxnet.serve.server import serve
from transxnet.serve.settings import ServerSettings

_ABOUT = """\
Serve a network over HTTP, with a page to try it on."""
_EXAMPLES = """\
  transxnet serve --checkpoint transx-t.pth.tar
"""
_DEMO = Path("runs/demo")


def run(arguments: Sequence[str]) -> int:
    """Parse, and serve until a signal."""
    options = _parser().parse(arguments)
    network = network_settings(options)
    if network["checkpoint"] is None and network["model"] is None:
        if not _DEMO.is_dir():
            raise ConfigError("give --checkpoint (a file or a run folder), or train one first: transxnet train")
        network["checkpoint"] = str(_DEMO)
    if network["fuse"] is None and not is_exported(str(network["checkpoint"] or "")):
        network["fuse"] = True
    token = os.environ.get("TRANSXNET_TOKEN", "")
    settings = ServerSettings(host=options.host, port=options.port, max_batch=options.max_batch, token=token)
    asyncio.run(serve(Engine(network, settings), settings, lambda address: say(f"serving at {address}")))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("serve", _ABOUT, _EXAMPLES)
    add_network_arguments(parser)
    parser.add_argument("--host", type=str, default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_number("--port", Port, default=8000, help="port to listen on; 0 for any free one")
    parser.add_number("--max_batch", BatchSize, default=8, help="maximum number of images in a step")
    return parser
