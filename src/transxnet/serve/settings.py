"""Settings of the server, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transxnet.bounds import (
    BatchSize,
    Connections,
    ImagesPerRequest,
    Megabytes,
    Megapixels,
    Port,
    Replicas,
    RequestSeconds,
    Waiting,
    WaitingMilliseconds,
    check_bounds,
)

_DECODER_BYTES = 2**29  # for what an image takes beside its bytes and pixels, such as threads
_BYTES_OF_PIXEL = 64  # up to 25 of usual formats, 44 of floats in TIFF


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the server that are not the network's.

    Attributes:
        host: Address to listen on; the default is reached from this machine only.
        port: Port to listen on; 0 for any free one.
        max_batch: Maximum number of images in a step of the network.
        max_wait: Milliseconds that an image waits for others to share its step.
        max_queue: Images that are accepted and not answered yet, beyond which requests get 503.
        max_megabytes: Size of a request's body in 10^6 bytes.
        max_megapixels: Size of an image in 10^6 pixels, read before it is decoded.
        max_images: Images in one request.
        max_connections: Connections that are open at once.
        timeout: Seconds in which a request is answered, or gets 504.
        receive_timeout: Seconds in which a request arrives, or the connection is closed.
        drain: Seconds that requests under way are given when the server is stopped.
        replicas: Processes that hold the network, each with a share of the processor's cores.
        decoders: Processes that decode images.
        cors: Origins of other pages that may call the server from a browser; "*" for all.
        allowed_hosts: Names that the server is called by, beside its own; also "*.example.org", or "*" for any.
        access_log: A line of the log for each request, as "text" or "json"; "off" for none.
        token: Secret that requests carry as ``Authorization: Bearer``; empty for none.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    max_batch: BatchSize = 8
    max_wait: WaitingMilliseconds = 5.0
    max_queue: Waiting = 64
    max_megabytes: Megabytes = 20.0
    max_megapixels: Megapixels = 50.0
    max_images: ImagesPerRequest = 16
    max_connections: Connections = 256
    timeout: RequestSeconds = 60.0
    receive_timeout: RequestSeconds = 20.0
    drain: RequestSeconds = 30.0
    replicas: Replicas = 1
    decoders: Replicas = 1
    cors: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    access_log: Literal["off", "text", "json"] = "off"
    token: str = ""

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def max_bytes(self) -> int:
        """Bytes of a request's body."""
        return int(self.max_megabytes * 1e6)

    @property
    def decoder_bytes(self) -> int:
        """Bytes that a process may take to decode an image: more than any format was seen to take."""
        return _DECODER_BYTES + 4 * self.max_bytes + _BYTES_OF_PIXEL * self.max_pixels

    @property
    def max_pixels(self) -> int:
        """Pixels of an image."""
        return int(self.max_megapixels * 1e6)
