"""Errors that a user can fix. The commands print them as one line, without a traceback."""


class TransXNetError(Exception):
    """Base class; the message says what was wrong, where, and what to do."""


class ConfigError(TransXNetError, ValueError):
    """A setting is unknown, out of range, or inconsistent with another."""


class CheckpointError(TransXNetError, ValueError):
    """A checkpoint cannot be read, or does not fit the network."""


class DataError(TransXNetError, ValueError):
    """A data set or an image cannot be used."""
