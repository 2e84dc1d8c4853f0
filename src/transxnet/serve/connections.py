"""Connections with limits: uvicorn's have none on their number, on slow clients, or on what they report.

A request's body is limited by :mod:`transxnet.serve.bodies`, which any ASGI server can run.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from transxnet.serve.faults import (
    BadRequestError,
    HeadersTooLargeError,
    OverloadedError,
    RequestFault,
    SlowRequestError,
)
from transxnet.serve.settings import ServerSettings

LINGER = 2.0
"""Seconds in which a client whose request was not read to its end can read the answer.

A socket that is closed with unread data resets the connection, and the answer is lost.
"""

MIN_RATE = 10_000
"""Bytes a second that a client has to send or read beyond the time for a request."""


class LimitedConnection(H11Protocol):
    """A connection whose client has to be quick enough.

    - The headers of a request arrive within ``receive_timeout`` of its first byte; those of the first request within
      that time of the connection.
    - An answer is read with a minimum rate; nobody waits for a client that reads nothing.
    - A client that closes its side has gone; what it sent in part is an error, and what it waits for is cancelled.
    - Errors of the protocol are answered in the JSON form of all errors.
    - Beyond ``max_connections``, the connection that has been idle longest after a request is closed; if there is
      none, the new one is refused with 503.
    """

    settings: ServerSettings
    count_refused: Callable[[int], None]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._closing = False
        self._socket: asyncio.Transport = None  # type: ignore[assignment]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._socket = transport
        super().connection_made(cast("asyncio.Transport", _ClosedByProtocol(transport, self)))
        if len(self.connections) > 2 * self.settings.max_connections:  # most of them are being refused
            transport.abort()
        elif len(self.connections) > self.settings.max_connections and not self._idle_one_closed():
            self.refuse(OverloadedError("too many connections are open; try again soon", retry_after=1))
        else:
            self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._closing:  # what nobody reads any more
            return
        super().data_received(data)
        self._limit_head()

    def eof_received(self) -> None:
        """Answer what was sent in part; the transport is closed on return."""
        if self._closing:
            return
        partial_body = self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.SEND_RESPONSE
        if partial_body or (self.conn.their_state is h11.IDLE and self._has_partial_head()):
            self.conn.receive_data(b"")
            self.handle_events()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._limit_head()

    def send_400_response(self, msg: str) -> None:
        """Answer an error of the protocol, which is being handled, in the form of all errors."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            self.refuse(HeadersTooLargeError("the request's headers are larger than 64 KB; send fewer or shorter ones"))
        else:
            reason = str(error or msg).partition(": bytearray(")[0]  # what was sent may be long
            self.refuse(BadRequestError(f"this is not a valid HTTP/1.1 request ({reason})"))

    def refuse(self, fault: RequestFault) -> None:
        """Answer with an error, if no answer has begun, and close the connection."""
        if self._closing:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # the application may have begun to read
            self.cycle.message_event.set()
        else:
            self.count_refused(fault.status)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._write(fault)
        self.close()

    def shutdown(self) -> None:
        """Close the connection after the answer under way, if any."""
        if self.cycle is None or self.cycle.response_complete:
            self.close()
        else:
            self.cycle.keep_alive = False

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit_sending(self.settings.receive_timeout)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None and not self._closing:
            self._send_timer.cancel()
            self._send_timer = None

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection when the answer is sent; a client that is still sending has time to read it."""
        if self._closing:
            return
        self._closing = True
        self._cancel_timers()
        unread = self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or (
            self.conn.their_state is h11.IDLE and self.conn.our_state is not h11.IDLE
        )
        sending = self._socket.get_write_buffer_size() > 0
        self._limit_sending(self.settings.receive_timeout if sending else min(LINGER, self.settings.receive_timeout))
        if unread and self._socket.can_write_eof() and not self._socket.is_closing():
            self._socket.write_eof()
            self.flow.read_paused = True
            self.flow.resume_reading()  # and discard
        else:
            self._socket.close()

    @property
    def closing(self) -> bool:
        """Whether nothing further is read or answered."""
        return self._closing or self._socket.is_closing()

    def _write(self, fault: RequestFault) -> None:
        body = json.dumps(fault.to_dict()).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **fault.headers,
        }
        reason = STATUS_PHRASES[fault.status]
        events: list[h11.Event] = [h11.Response(status_code=fault.status, headers=list(headers.items()), reason=reason)]
        if self.conn.our_state is h11.IDLE or self.scope["method"] != "HEAD":
            events.append(h11.Data(data=body))
        for event in (*events, h11.EndOfMessage()):
            self._socket.write(self.conn.send(event) or b"")

    def _idle_one_closed(self) -> bool:
        """Close the connection that has been idle longest since its last answer; returns whether there is one."""
        waiting = [
            one
            for one in self.connections
            if isinstance(one, LimitedConnection) and one.timeout_keep_alive_task is not None and not one.closing
        ]
        if waiting:
            min(waiting, key=lambda one: cast("asyncio.TimerHandle", one.timeout_keep_alive_task).when()).close()
        return bool(waiting)

    def _has_partial_head(self) -> bool:
        return bool(self.conn.trailing_data[0])

    def _limit_head(self) -> None:
        """Set the time for a request's headers if they are awaited, and end it if not."""
        awaited = not self._closing and self.conn.their_state is h11.IDLE
        if awaited and self._has_partial_head():
            self._unset_keepalive_if_required()
        elif self.cycle is not None:
            awaited = False
        if not awaited and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif awaited and self._head_timer is None:
            self._head_timer = self.loop.call_later(self.settings.receive_timeout, self._head_late)

    def _head_late(self) -> None:
        self._head_timer = None
        if self._has_partial_head():
            seconds = f"{self.settings.receive_timeout:g}"
            self.refuse(SlowRequestError(f"the request's headers did not arrive within {seconds} seconds"))
        else:
            self.close()

    def _limit_sending(self, seconds: float) -> None:
        self._unsent = self._socket.get_write_buffer_size()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(seconds, self._sending_late, seconds)

    def _sending_late(self, seconds: float) -> None:
        """Cut off a client that has read less than the minimum of the answer in that many seconds."""
        self._send_timer = None
        unsent = self._socket.get_write_buffer_size()
        if unsent and unsent <= self._unsent - seconds * MIN_RATE:
            self._limit_sending(seconds)
        else:
            self._socket.abort()

    def _cancel_timers(self) -> None:
        self._unset_keepalive_if_required()
        for timer in (self._head_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._send_timer = None


class _ClosedByProtocol:
    """A transport that uvicorn closes by way of its connection, which may wait for the client to read.

    Args:
        transport: The transport.
        connection: The connection.
    """

    def __init__(self, transport: asyncio.Transport, connection: LimitedConnection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._connection.close()

    def is_closing(self) -> bool:
        return self._connection.closing


def connections(settings: ServerSettings, count_refused: Callable[[int], None]) -> type[LimitedConnection]:
    """The class of connections with these limits, as uvicorn wants it.

    Args:
        settings: The limits.
        count_refused: Called with the status of an error that is answered without the application.
    """
    attributes = {"settings": settings, "count_refused": staticmethod(count_refused)}
    return type("Connection", (LimitedConnection,), attributes)
