"""Map from the names in released checkpoints to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

MARKER = "patch_embed.proj.conv.weight"
"""A name in every released classifier and backbone, and in no network of ours."""

_BLOCK_PARTS = {
    "pos_embed": "dpe",
    "token_mixer.local_unit.weight": "token_mixer.local_operator.weight",
    "token_mixer.local_unit.bias": "token_mixer.local_operator.bias",
    "token_mixer.local_unit.proj.0.conv": "token_mixer.local_operator.attention.0",
    "token_mixer.local_unit.proj.0.bn": "token_mixer.local_operator.attention.1",
    "token_mixer.local_unit.proj.1": "token_mixer.local_operator.attention.3",
    "token_mixer.global_unit.q": "token_mixer.attention.q",
    "token_mixer.global_unit.kv": "token_mixer.attention.kv",
    "token_mixer.global_unit.local_conv": "token_mixer.attention.lr",
    "token_mixer.global_unit.sr.0.conv": "token_mixer.attention.osr.0",
    "token_mixer.global_unit.sr.0.bn": "token_mixer.attention.osr.1",
    "token_mixer.global_unit.sr.1.conv": "token_mixer.attention.osr.3",
    "token_mixer.global_unit.sr.1.bn": "token_mixer.attention.osr.4",
    "token_mixer.proj.0": "token_mixer.enhancer.local.0",
    "token_mixer.proj.2": "token_mixer.enhancer.local.2",
    "token_mixer.proj.3": "token_mixer.enhancer.squeeze.0",
    "token_mixer.proj.5": "token_mixer.enhancer.squeeze.2",
    "token_mixer.proj.6": "token_mixer.enhancer.expand.0",
    "token_mixer.proj.7": "token_mixer.enhancer.expand.1",
    "mlp.fc1.0": "ffn.expand.0",
    "mlp.fc1.2": "ffn.expand.2",
    "mlp.dwconv.proj": "ffn.multi_scale.scales",
    "mlp.norm": "ffn.norm",
    "mlp.fc2.0": "ffn.project.0",
    "mlp.fc2.1": "ffn.project.1",
    "layer_scale_1": "scale1",
    "layer_scale_2": "scale2",
    "norm1": "norm1",
    "norm2": "norm2",
}
_NETWORK = {
    "patch_embed.proj.conv": "stem.conv",
    "patch_embed.proj.bn": "stem.norm",
    "classifier.0": "norm",
    "classifier.2": "head.fc",
    **{f"network.{2 * s - 1}.proj.conv": f"stages.{s}.downsample.conv" for s in (1, 2, 3)},
    **{f"network.{2 * s - 1}.proj.bn": f"stages.{s}.downsample.norm" for s in (1, 2, 3)},
    **{f"relative_pos_enc.{s}": f"stages.{s}.position_bias.table" for s in range(4)},
    **{f"norm{2 * s}": f"norms.{s}" for s in range(4)},  # the outputs of a dense backbone
}
_BLOCK = re.compile(r"network\.([0246])\.(\d+)\.(.+)")


def rename(name: str) -> str:
    """Our name for an entry of a released classifier or backbone; unknown names are unchanged."""
    if block := _BLOCK.fullmatch(name):
        stage, index, part = int(block[1]) // 2, block[2], block[3]
        return f"stages.{stage}.blocks.{index}.{_replace_prefix(part, _BLOCK_PARTS)}"
    return _replace_prefix(name, _NETWORK)


def from_released(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of a released classifier or backbone.

    Two kinds of entries change shape: the classifier's 1x1 convolution becomes a linear layer, and
    the layer scales' weight (C, 1, 1, 1) and bias (C) become (C, 1, 1).
    """
    return {new: _reshape(new, tensor) for new, tensor in ((rename(n), t) for n, t in state_dict.items())}


def _reshape(name: str, tensor: Tensor) -> Tensor:
    if name == "head.fc.weight":
        return tensor.flatten(1)
    if ".scale1." in name or ".scale2." in name:
        return tensor.reshape(-1, 1, 1)
    return tensor


def _replace_prefix(name: str, table: Mapping[str, str]) -> str:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if new := table.get(".".join(parts[:length])):
            return ".".join([new, *parts[length:]])
    return name
