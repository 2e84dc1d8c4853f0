"""Comparing the sizes in a file's metadata with its tensors, before memory is allocated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from transxnet.bounds import shown
from transxnet.checkpoints.fitting import sizes_of
from transxnet.config import TransXNetConfig
from transxnet.errors import CheckpointError
from transxnet.files import reason
from transxnet.model import TransXNet, Trunk

# The settings that determine the shape of an entry.
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
    """Compare the depths and channels, which determine all other sizes.

    Args:
        values: The configuration in the file.
        weights: Entries of a classifier or backbone, under our names.
        source: Source of the weights, for messages.

    Raises:
        CheckpointError: If they differ.
    """
    for name, found in zip(("depths", "channels"), sizes_of(weights), strict=True):
        if values.get(name) != list(found):
            raise CheckpointError(
                f"{source}: its metadata has {name} {shown(values.get(name))}, but its tensors have {list(found)}"
            )


def check_config(config: TransXNetConfig, weights: Mapping[str, Tensor], source: str, *, classifier: bool) -> None:
    """Compare a configuration with the shapes of the tensors.

    Args:
        config: The configuration in the file's metadata.
        weights: Entries of a classifier or backbone, under our names; may be meta tensors.
        source: Source of the weights, for messages.
        classifier: Whether they are from a classifier.

    Raises:
        CheckpointError: If a network of this configuration has other entries, or cannot be built.
    """
    with unallocated(source):
        network: nn.Module = TransXNet(config) if classifier else Trunk(config)
    for name, tensor in network.state_dict().items():
        stored = weights.get(name)
        if stored is None or stored.shape != tensor.shape:
            settings = next((names for pattern, names in _SETTINGS if pattern.match(name)), "configuration")
            found = "no such tensor" if stored is None else f"one of {tuple(stored.shape)}"
            raise CheckpointError(
                f"{source}: its {settings} would need a {name} of {tuple(tensor.shape)}, but the file has {found}; "
                "metadata and tensors are not of the same network"
            )


@contextmanager
def unallocated(source: str) -> Iterator[None]:
    """Build networks on the meta device; errors about their sizes become one line.

    Raises:
        CheckpointError: For any exception.
    """
    try:
        with torch.device("meta"):
            yield
    except CheckpointError:
        raise
    except Exception as error:  # sizes beyond PyTorch's limits
        raise CheckpointError(f"{source}: no network can have the sizes in its metadata ({reason(error)})") from error
