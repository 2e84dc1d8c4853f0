"""``transxnet serve``."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch

from transxnet.bounds import Answers, Share, kinds_of
from transxnet.cli.parsing import (
    OPENING_OPTIONS,
    CommandParser,
    add_opening_arguments,
    choose_device,
    network_settings,
)
from transxnet.cli.streams import note, say
from transxnet.data.worker_processes import worker_context
from transxnet.errors import ConfigError
from transxnet.inference.precision import Fusion
from transxnet.inference.runtimes import is_exported
from transxnet.kernels.cpu import build
from transxnet.serve import work
from transxnet.serve.answers import ModelDescription
from transxnet.serve.engine import Engine
from transxnet.serve.server import ending_signals, listen, serve
from transxnet.serve.settings import ServerSettings
from transxnet.training.run_folder import RunFolder, is_run

_ABOUT = """\
Serve a network over HTTP: a page to try it on with images of your own, and /predict for programs.
Images that arrive together are computed together. Without --checkpoint and --model: the run of
`make demo`, or the newest run of `transxnet train` on the digits.

Only this machine reaches the server, unless --host is another address. If the environment variable
TRANSXNET_TOKEN is set, requests must carry it ("Authorization: Bearer ..."). Ctrl-C or SIGTERM
stops the server when it has answered what it has accepted."""
_EXAMPLES = """\
  transxnet serve
  transxnet serve --checkpoint transx-t.pth.tar
  transxnet serve --checkpoint runs/photos --top 5 --port 9000
  transxnet serve --checkpoint maskrcnn_tiny.pth --min-score 0.3 --max-batch 4
  transxnet serve --checkpoint first.onnx --runtime openvino
  TRANSXNET_TOKEN=secret transxnet serve --host 0.0.0.0 --allowed-hosts images.example.org
"""
_DEMO = Path("runs/demo")
_TOKEN = "TRANSXNET_TOKEN"
_OPTIONS = {
    "address": {
        "host": "address to listen on; 0.0.0.0 or :: for all of this machine's",
        "port": "port to listen on; 0 for any free one",
        "allowed_hosts": "names that clients call the server by, beside localhost; also *.example.org, or * for any",
        "cors": "origins, such as https://example.org, whose pages may call the server from a browser; * for all",
    },
    "batching": {
        "max_batch": "maximum number of images that are computed together",
        "max_wait": "milliseconds that an image waits for others",
        "replicas": "processes that hold the network, each with its share of the processor's cores",
        "decoders": "processes that decode images",
    },
    "limits": {
        "max_queue": "images that are accepted and not answered yet, beyond which requests get 503",
        "max_megabytes": "size of a request's body in 10^6 bytes",
        "max_megapixels": "size of an image in 10^6 pixels, checked before it is decoded",
        "max_images": "images in a request",
        "max_connections": "connections that are open at once",
        "timeout": "seconds in which a request is answered, or gets 504",
        "receive_timeout": "seconds in which a request arrives, or gets 408",
        "drain": "seconds for requests under way when the server is stopped",
    },
    "log": {"access_log": "a line on standard error for each request: off, text or json"},
}
"""Options by their group, all of them fields of the server's settings."""

_LISTS = ("allowed_hosts", "cors")
_METAVARS = {
    "allowed_hosts": "NAME", "cors": "ORIGIN", "access_log": "FORM",
    "max_wait": "MS", "max_megabytes": "MB", "max_megapixels": "MP",
    **dict.fromkeys(("timeout", "receive_timeout", "drain"), "SECONDS"),
    **dict.fromkeys(("max_batch", "replicas", "decoders", "max_queue", "max_images", "max_connections"), "N"),
}  # fmt: skip
_ORIGIN = re.compile(r"\*|https?://(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII)
_HOST_NAME = re.compile(r"\*|\[[0-9a-fA-F:.]+\]|(\*\.)?[\w.-]+", re.ASCII)


def run(arguments: Sequence[str]) -> int:
    """Parse, and serve until a signal."""
    options = _parser().parse(arguments)
    settings = _settings(options)
    network = network_settings(options, OPENING_OPTIONS)
    found = "" if network["checkpoint"] or network["model"] else _digits_run()
    network |= {
        "checkpoint": network["checkpoint"] or found or None,
        "top": options.top,
        "min_score": options.min_score,
    }
    with _stopped_by_signals():
        try:
            listen(settings).close()  # a port in use is reported before anything is opened
            _warn_if_open(settings)
            note(f"opening {network['checkpoint'] or network['model']}")
            starting = _start_process()
            if network["fuse"] is None:
                network["fuse"] = _fusion(network)
            starting()
            engine = Engine(network, settings)
            asyncio.run(serve(engine, settings, partial(_announce, engine, found)))
        except KeyboardInterrupt:  # while the network is opened
            pass
        except SystemExit:  # a second signal
            note("stopped before every answer was sent")
            raise
    note("stopped")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser("serve", _ABOUT, _EXAMPLES)
    group = parser.add_argument_group("network")
    fused = "yes, but without native kernels if there is no compiler; exported files as they are"
    add_opening_arguments(parser, group, fused=fused)
    parser.add_number("--top", Answers, group, default=3, help="of a classifier: number of classes for each image")
    parser.add_number("--min_score", Share, group, default=0.5, help="of a detector: minimum score of an object")
    kinds = kinds_of(ServerSettings)
    defaults = {field.name: field.default for field in fields(ServerSettings)}
    for title, options in _OPTIONS.items():
        group = parser.add_argument_group(title)
        for name, about in options.items():
            option: dict[str, Any] = {"help": about, "metavar": _METAVARS.get(name)}
            if name in _LISTS:
                group.add_argument(f"--{name}", type=str, nargs="+", action="extend", **option)
                continue
            option |= {"default": defaults[name], "help": f"{about} (default: {_shown(defaults[name])})"}
            choices = get_args(kinds[name]) if get_origin(kinds[name]) is Literal else None
            if choices or kinds[name] is str:
                group.add_argument(f"--{name}", type=str, choices=choices, **option)
            else:
                parser.add_number(f"--{name}", kinds[name], group, **option)
    return parser


def _shown(default: Any) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def _settings(options: Any) -> ServerSettings:
    """The server's settings; raises ConfigError if a name, an origin or the token cannot be used."""
    given = {name: getattr(options, name) for group in _OPTIONS.values() for name in group}
    for name, pattern, wanted in (
        ("allowed_hosts", _HOST_NAME, "a name such as api.example.org, without scheme and port, or *"),
        ("cors", _ORIGIN, "an origin such as https://example.org, without a path, or *"),
    ):
        given[name] = tuple(given[name] or ())
        wrong = [one for one in given[name] if not pattern.fullmatch(one)]
        if wrong:
            raise ConfigError(f"--{name.replace('_', '-')}: {wrong[0]!r} is not {wanted}")
    if not given["host"]:
        raise ConfigError("--host needs a value")
    token = os.environ.get(_TOKEN, "")
    if not re.fullmatch("[!-~]*", token):
        raise ConfigError(f"{_TOKEN} has spaces or characters that a request cannot carry; use letters and digits")
    return ServerSettings(**given, token=token)


def _digits_run() -> str:
    """The run of ``make demo``, or the newest finished one on the digits."""
    if is_run(_DEMO) and RunFolder(_DEMO).weights.exists():
        return str(_DEMO)
    newest = RunFolder.newest("digits")
    if newest is None:
        raise ConfigError(
            "there is no network to serve: give --checkpoint (a file, a run folder or a URL) or --model, or run "
            "`transxnet train` first, which learns digits in minutes"
        )
    return str(newest.path)


def _fusion(network: dict[str, Any]) -> Fusion:
    """How a network is fused if no option chooses it. Native kernels that are not compiled yet are compiled."""
    exported = network["checkpoint"] and is_exported(network["checkpoint"])
    if exported or torch.device(choose_device(network["device"])).type != "cpu":
        return None
    try:
        if not build.is_ready():
            note("compiling the native kernels, which takes some seconds")
            build.library()
    except ConfigError:
        note(
            "there is no usable C++ compiler for the native kernels, so PyTorch computes, more slowly (--fuse says why)"
        )
        return "fold"
    return True


def _warn_if_open(settings: ServerSettings) -> None:
    """Remark that others reach a server that does not ask for a token."""
    if settings.token:
        return
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    except OSError:
        return  # the server reports it
    if not all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found):
        advice = f"set {_TOKEN} to a secret that requests must carry"
        note(f"anyone who reaches this machine at {settings.host} can use the server; {advice}")


def _start_process() -> Callable[[], None]:
    """Let the process that forks the server's processes import its libraries, which takes seconds.

    Returns:
        Waits for it; Ctrl-C ends this wait, but not one in another thread.
    """
    context: Any = worker_context(work.__name__)
    process = context.Process(target=os.getpid, daemon=True)

    def wait() -> None:
        with suppress(EOFError):  # it was lost; the engine starts it again, or reports that it cannot
            process.start()
            process.join()

    return wait


def _announce(engine: Engine, found: str, address: str) -> None:
    """Print the line that programs wait for."""
    assert engine.opened is not None
    model: ModelDescription = engine.opened.description
    count = len(model.classes)
    origin = f" from {shlex.quote(found)}" if found else ""
    classes = f"{count} class{'' if count == 1 else 'es'}"
    say(f"serving {model.name} ({model.task}, {classes}){origin} at {address} (Ctrl-C stops it)")
    sys.stdout.flush()


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP are Ctrl-C until the server handles all of them."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in ending_signals() if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
