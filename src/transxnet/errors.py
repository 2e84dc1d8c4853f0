"""Mistakes a user can mend. The commands print them as one line, without a traceback."""


class TransXNetError(Exception):
    """What was wrong, where, and what to do."""


class ConfigError(TransXNetError, ValueError):
    """A setting is unknown, out of range, or does not fit another."""


class CheckpointError(TransXNetError, ValueError):
    """A checkpoint cannot be read, or does not fit the network."""


class DataError(TransXNetError, ValueError):
    """A data set or an image cannot be used."""
