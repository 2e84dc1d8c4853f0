"""The processes of a distributed run."""

from __future__ import annotations

import os
from typing import NamedTuple, TypeVar

Value = TypeVar("Value")


class Process(NamedTuple):
    """A process of a run.

    Attributes:
        rank: Its index among all processes.
        world_size: Number of processes.
    """

    rank: int = 0
    world_size: int = 1


def gathered(value: Value) -> list[Value]:
    """The value of every process, in the order of their ranks; of this one alone if there are no others."""
    import torch  # after the command's help, which does not wait for it

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Value | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def is_rank_zero() -> bool:
    """Whether this is rank 0, read from the environment before initialisation."""
    for name in ("RANK", "SLURM_PROCID"):  # torchrun's comes before SLURM's, which may have started torchrun
        if name in os.environ:
            return os.environ[name] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))
