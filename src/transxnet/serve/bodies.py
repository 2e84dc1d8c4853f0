"""The images in a request's body, received within limits of size and time, and kept in memory only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message

from transxnet.serve.connections import MIN_RATE
from transxnet.serve.faults import (
    BadRequestError,
    BodyTooLargeError,
    InvalidParameterError,
    OverloadedError,
    SlowRequestError,
    UnsupportedTypeError,
)
from transxnet.serve.settings import ServerSettings
from transxnet.text import printable, unicode_text

FIELDS = 32
"""Fields of a form beside its files; they are ignored."""

LONGEST_NAME = 255
"""Characters of a file name that are repeated in an answer."""

_HELD = 16
"""Bodies of the maximum size that are held at once; smaller ones as many more."""

_TAKEN = (
    "send the image as the body, with Content-Type image/jpeg, image/png and so on or application/octet-stream, or as "
    "a file of a multipart/form-data form, as `curl -F image=@cat.jpg` does"
)


@dataclass(frozen=True)
class Upload:
    """An image as it was sent.

    Attributes:
        name: Name of the file, escaped; "image 0" and so on if it has none.
        content: Its bytes.
    """

    name: str
    content: bytes


class Bodies:
    """Receives bodies.

    Args:
        settings: The limits.
        parameters: Names that are expected in the query, and refused in a form.

    Attributes:
        held: Bytes of all bodies that are being received or answered.
    """

    def __init__(self, settings: ServerSettings, parameters: frozenset[str] = frozenset()) -> None:
        self.settings = settings
        self.parameters = parameters
        self.held = 0

    @asynccontextmanager
    async def uploads(self, request: Request) -> AsyncIterator[list[Upload]]:
        """The images of a request; their bytes count as held for as long as the context lasts.

        Raises:
            RequestFault: If the body is of another type, too large, too slow, or not a valid form, or too much is
                held already.
            ClientDisconnect: If the client goes away before its end.
        """
        stated, parameters = parse_options_header(request.headers.get("content-type"))
        kind = stated.decode("latin-1")
        self._check(request, kind, parameters.get(b"charset", b"utf-8"))
        share = _Share(self)
        try:
            limited = self._limited(request, share)
            if kind == "multipart/form-data":
                yield await self._files(limited)
            else:
                yield [Upload("image 0", await limited.body())]
        finally:
            self.held -= share.taken

    def _check(self, request: Request, kind: str, charset: bytes) -> None:
        """Refuse what needs no body to be refused.

        Forms are in UTF-8: among Python's other codecs are some that take minutes, or that fail in ways of their own.
        """
        if request.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise UnsupportedTypeError("compressed bodies are not accepted; send the image file as it is")
        # HTTP lets a body without a type be taken for bytes (RFC 9110, 8.3), which clients send without being asked to.
        if kind not in ("", "multipart/form-data", "application/octet-stream") and not kind.startswith("image/"):
            raise UnsupportedTypeError(f"bodies of type {printable(kind)[:80]} are not accepted; {_TAKEN}")
        if kind == "multipart/form-data" and charset.lower() not in (b"utf-8", b"utf8"):
            raise UnsupportedTypeError("forms are read as UTF-8; leave the charset out of Content-Type")
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.settings.max_bytes:
            raise self._too_large()

    def _limited(self, request: Request, share: _Share) -> Request:
        """The request, whose body has a maximum size and a minimum rate.

        What arrives faster than that is no credit for a pause of more than the time for a request.
        """
        loop, patience = asyncio.get_running_loop(), self.settings.receive_timeout
        end = loop.time() + patience

        async def receive() -> Message:
            nonlocal end
            try:
                async with asyncio.timeout_at(end):
                    message = await request.receive()
            except TimeoutError:
                raise SlowRequestError(
                    f"the body arrived too slowly: {share.taken:,} bytes so far, and it may pause for {patience:g} "
                    f"seconds and needs {MIN_RATE // 1000} kB/s; send a smaller image"
                ) from None
            count = len(message.get("body", b""))
            end = min(end + count / MIN_RATE, loop.time() + patience)
            share.take(count)
            if share.taken > self.settings.max_bytes:
                raise self._too_large()
            if self.held > _HELD * self.settings.max_bytes:
                raise OverloadedError("too many images are being received; try again soon", retry_after=1)
            return message

        return Request(request.scope, receive)

    async def _files(self, request: Request) -> list[Upload]:
        maximum = self.settings.max_images
        parser = _FormParser(
            request.headers, request.stream(), max_files=maximum, max_fields=FIELDS, max_part_size=64 * 1024
        )
        parser.spool_max_size = self.settings.max_bytes + 1  # or larger files go to disk
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if error.message.startswith("Too many files"):
                raise InvalidParameterError(
                    f"the form has more than {maximum} files; send them in several requests"
                ) from None
            raise BadRequestError(f"the form cannot be read: {printable(error.message)[:200]}") from None
        if not parser.ended:
            raise BadRequestError("the form ends before its last boundary; send all of it")
        try:
            return [
                Upload(_shown(one.filename) or f"image {index}", await one.read())
                for index, one in enumerate(self._checked(form.multi_items()))
            ]
        finally:
            await form.close()

    def _checked(self, items: list[tuple[str, UploadFile | str]]) -> list[UploadFile]:
        files = [value for _, value in items if isinstance(value, UploadFile)]
        texts = [name for name, value in items if isinstance(value, str)]
        if misplaced := next((name for name in texts if name in self.parameters), None):
            raise InvalidParameterError(f'"{misplaced}" is a field of the form; give it in the query, as ?{misplaced}=')
        if not files:
            raise InvalidParameterError("the form has no file; add one with the image")
        return files

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"the body has more than {self.settings.max_bytes:,} bytes; send a smaller or more compressed image"
        )


@dataclass
class _Share:
    """Bytes that one request holds."""

    bodies: Bodies
    taken: int = 0

    def take(self, count: int) -> None:
        self.taken += count
        self.bodies.held += count


class _FormParser(MultiPartParser):
    """A parser that notes whether the form was complete: a file that was cut off is left out without a word."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


def _shown(name: str | None) -> str:
    """A file's name that is safe to print, and not longer than file systems allow."""
    return printable(unicode_text(name or "")[:LONGEST_NAME])
