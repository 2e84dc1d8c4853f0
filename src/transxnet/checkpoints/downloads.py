"""Downloads, cached by URL and verified with SHA-256."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.parse
import urllib.request
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import cast

import torch

from transxnet.errors import CheckpointError
from transxnet.files import open_regular, read_text, reason, replacing, user_path, write_text
from transxnet.version import __version__

_SCHEMES = ("https", "http")
_CHUNK = 2**20
_MAX_BYTES = 64 * 2**30
_TIMEOUT = 60  # seconds without a response
_MAX_NAME = 120  # characters of a cached file's name
# torch.hub's convention: eight or more digits of the file's SHA-256 before its suffix.
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


def download(url: str, cache_dir: str | Path | None = None) -> Path:
    """Download a file, or return the cached copy if it is intact.

    Each URL has its own folder in the cache, with the file's SHA-256 in a file beside it.

    Args:
        url: URL with the scheme http or https; one with the scheme file is resolved to its path.
        cache_dir: Cache folder; PyTorch's by default.

    Raises:
        CheckpointError: If it cannot be downloaded, arrives incomplete or damaged, or cannot be stored.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme.lower() == "file":
            return user_path(urllib.request.url2pathname(parts.path))
        if parts.scheme.lower() not in _SCHEMES:
            raise ValueError(f"{parts.scheme!r} is not one of {', '.join(_SCHEMES)}")
        name = _name(parts.path)
        path = _cache(cache_dir) / hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()[:16] / name
        if not _is_intact(path):
            _fetch(url, path)
        return path
    except (OSError, ValueError, EOFError, http.client.HTTPException) as error:
        inner = getattr(error, "reason", None)
        cause = inner if isinstance(inner, str) else reason(inner if isinstance(inner, Exception) else error)
        raise CheckpointError(
            f"could not download {url} ({cause}); without a network, download the file on another machine and give its "
            "path as the checkpoint"
        ) from error


def _name(path: str) -> str:
    """The base name of a URL's path, safe for any file system; its suffix decides how it is read."""
    name = re.sub(r"[^\w.-]", "_", PurePosixPath(urllib.parse.unquote(path)).name, flags=re.ASCII)
    return name[-_MAX_NAME:].lstrip(".-") or "weights"


def _cache(cache_dir: str | Path | None) -> Path:
    folder = Path(cache_dir) if cache_dir is not None else Path(torch.hub.get_dir(), "checkpoints")
    if folder.parts[:1] and folder.parts[0].startswith("~"):  # the user has no home folder
        raise OSError(None, "there is no home folder to keep it in: set TORCH_HOME")
    return folder


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _is_intact(path: Path) -> bool:
    """Whether a cached file is unchanged since its download."""
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(cast(BufferedReader, file), "sha256")
        return digest.hexdigest() == read_text(_record(path)).strip()
    except (OSError, ValueError):
        return False


def _fetch(url: str, path: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": f"transxnet/{__version__}"})
    from transxnet.console import download_progress  # with rich, if it is installed

    digest, count = hashlib.sha256(), 0
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response, replacing(path) as temporary:
        length = response.headers.get("Content-Length")
        size = int(length) if length is not None else None
        with temporary.open("wb") as file, download_progress() as progress:
            task = progress.add_task(path.name, total=size)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                count += len(chunk)
                progress.advance(task, len(chunk))
                if count > _MAX_BYTES:
                    raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
        if size is not None and count != size:
            raise EOFError(f"the connection ended after {count:,} of {size:,} bytes; try again")
        expected = _DIGEST_IN_NAME.search(path.name)
        if expected and not digest.hexdigest().startswith(expected[1]):
            raise ValueError(f"its SHA-256 begins with {digest.hexdigest()[: len(expected[1])]}, not as in its name")
    write_text(_record(path), f"{digest.hexdigest()}\n")
