"""The network as it is used after training: the same function in fewer operations."""

from transxnet.inference.fuse import fuse

__all__ = ["fuse"]
