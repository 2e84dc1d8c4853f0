"""Comparing the sizes that a file's metadata gives with those of its tensors, before anything is allocated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from transxnet.checkpoints.fitting import sizes_of
from transxnet.checkpoints.values import shown, why
from transxnet.config import TransXNetConfig
from transxnet.errors import CheckpointError
from transxnet.model import TransXNet, Trunk

# The settings that decide the shape of an entry.
_SETTINGS = tuple(
    (re.compile(pattern), names)
    for pattern, names in (
        (r"head\.fc\.", "num_classes"),
        (r"stem\.", "in_chans and stem"),
        (r"stages\.\d+\.position_bias\.", "img_size, heads and reductions"),
        (r".*\.ffn\.", "expansions, ffn and ffn_scales"),
        (r".*\.token_mixer\.attention\.", "attention_shares, reductions and spatial_reduction"),
        (r".*\.token_mixer\.local_operator\.", "kernel_sizes, attention_groups, attention_shares and local_operator"),
        (r".*\.token_mixer\.", "token_mixer, enhancer, heads and kernel_sizes"),
        (r".*\.scale[12]\.", "layer_scale_init"),
        (r".*\.dpe\.", "position_encoding"),
    )
)


def check_depths(values: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> None:
    """Compare the number and the channels of the blocks, on which the size of everything else depends.

    Args:
        values: The configuration as the file has it.
        weights: A classifier's or backbone's entries, under our names.
        source: What was read, for messages.

    Raises:
        CheckpointError: If they differ.
    """
    for name, found in zip(("depths", "channels"), sizes_of(weights), strict=True):
        if values.get(name) != list(found):
            raise CheckpointError(
                f"{source}: its description gives {name} {shown(values.get(name))}, but its tensors have {list(found)}"
            )


def check_config(config: TransXNetConfig, weights: Mapping[str, Tensor], source: str, *, classifier: bool) -> None:
    """Compare a configuration with the shapes of the tensors.

    Args:
        config: What the file's description gives.
        weights: A classifier's or backbone's entries, under our names; meta tensors will do.
        source: What was read, for messages.
        classifier: Whether they are a whole classifier's.

    Raises:
        CheckpointError: If a network of this configuration has other entries, or cannot be built.
    """
    with unallocated(source):
        network: nn.Module = TransXNet(config) if classifier else Trunk(config)
    for name, tensor in network.state_dict().items():
        held = weights.get(name)
        if held is None or held.shape != tensor.shape:
            about = next((names for pattern, names in _SETTINGS if pattern.match(name)), "configuration")
            has = "no such tensor" if held is None else f"one of {tuple(held.shape)}"
            raise CheckpointError(
                f"{source}: its {about} would need a {name} of {tuple(tensor.shape)}, but the file has {has}; its "
                "description and its tensors are not of the same network"
            )


@contextmanager
def unallocated(source: str) -> Iterator[None]:
    """Build networks that have shapes alone; whatever is wrong with their sizes becomes one line.

    Raises:
        CheckpointError: For any exception; one that is a CheckpointError passes.
    """
    try:
        with torch.device("meta"):
            yield
    except CheckpointError:
        raise
    except Exception as error:  # sizes beyond PyTorch's own
        raise CheckpointError(
            f"{source}: no network can have the sizes that its description gives ({why(error)})"
        ) from error
