"""What the processes of a run tell each other."""

from __future__ import annotations

import os
from typing import TypeVar

import torch

Value = TypeVar("Value")


def gathered(value: Value) -> list[Value]:
    """The value of every process, in the order of their ranks; of this one alone if there are no others."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Value | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def is_first() -> bool:
    """Whether this is the process that talks; known before the processes know each other."""
    for name in ("RANK", "SLURM_PROCID"):  # torchrun's comes before SLURM's, which may have started torchrun
        if name in os.environ:
            return os.environ[name] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK"))
