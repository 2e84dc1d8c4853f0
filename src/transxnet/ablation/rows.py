"""One named row for each row of Tables V to IX: its configuration, and what the paper prints in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transxnet.config import VARIANTS, TransXNetConfig
from transxnet.errors import ConfigError

BASES = ("tiny", "nano")
"""The paper's network, and one on which a row can be trained on two CPU cores."""


@dataclass(frozen=True)
class PaperRow:
    """A row's numbers as the paper prints them; none was measured here.

    Attributes:
        macs: "#F (G)" on ImageNet-1K at 224 x 224, by the paper's rule.
        parameters: "#P (M)" there.
        top1: Top-1 accuracy in per cent.
        dense_macs: "#F (G)" of Semantic FPN on ADE20K at 512 x 2048.
        dense_parameters: "#P (M)" there.
        miou: Mean intersection over union in per cent.
    """

    macs: float
    parameters: float
    top1: float
    dense_macs: float
    dense_parameters: float
    miou: float


@dataclass(frozen=True)
class Row:
    """A row of an ablation table.

    Attributes:
        table: Number of the table, 5 to 9.
        key: The row's short name.
        label: The paper's name of the row.
        paper: The paper's numbers.
        changes: The alternative: fields of the configuration that differ from the base's.
        sizes: Fields that differ on the Tiny network only, because the table has sizes of its own.
        misprint: Why a printed number cannot be right, where one is wrong.
    """

    table: int
    key: str
    label: str
    paper: PaperRow
    changes: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] = field(default_factory=dict)
    misprint: str = ""

    @property
    def name(self) -> str:
        """Such as "table6/dwconv"."""
        return f"table{self.table}/{self.key}"

    def network(self, base: str = "tiny") -> str:
        """The registered name of the row's network, such as ``transxnet_tiny_table6_dwconv``.

        Raises:
            ConfigError: If the base is not one of :data:`BASES`.
        """
        _check_base(base)
        return f"transxnet_{base}_table{self.table}_{self.key.replace('.', '')}"  # a dot would be timm's tag

    def config(self, base: str = "tiny") -> TransXNetConfig:
        """The row's configuration on the Tiny network, as in the paper, or the same alternative on the nano one.

        Raises:
            ConfigError: If the base is not one of :data:`BASES`.
        """
        _check_base(base)
        sizes = self.sizes if base == "tiny" else {}
        return VARIANTS[f"transxnet_{base}"].override(**sizes, **self.changes)


def _check_base(base: str) -> None:
    if base not in BASES:
        raise ConfigError(f"the ablations' bases are {' and '.join(BASES)}, not {base!r}")


# Table V compares token mixers in a body like Swin-T's. Its downsampling overlaps as everywhere: with
# patches of 2 x 2 all rows would be 0.86 M parameters short of the paper's.
_BODY_SIZES = {"depths": (2, 2, 6, 2), "channels": (64, 128, 256, 512), "heads": (1, 2, 4, 8)}
_BODY = {"stem": "patches", "ffn": "vanilla", "position_encoding": "none", "layer_scale_init": None}

_SEP_CONV = (
    "The paper prints 11.4 M parameters for Sep Conv on ImageNet-1K and 14.6 M on ADE20K; in every other row of the "
    "table ADE20K has 3.7 M more, so the first is a misprint of 10.9 M."
)
_DYCONV = (
    "The paper prints 12.3 M parameters for DyConv on ImageNet-1K, less than the network without any local operator "
    "(12.4 M), and 16.5 M on ADE20K, which fits 12.7 M: a misprint."
)


def _mixer(key: str, label: str, paper: PaperRow, mixer: str, misprint: str = "") -> Row:
    return Row(5, key, label, paper, {**_BODY, "token_mixer": mixer}, _BODY_SIZES, misprint)


_ROWS = (
    _mixer("sep_conv", "Sep Conv", PaperRow(1.6, 11.4, 76.9, 119.7, 14.6, 39.9), "sep_conv", _SEP_CONV),
    _mixer("sra", "SRA", PaperRow(2.0, 16.2, 77.4, 126.6, 20.0, 41.9), "sra"),
    _mixer("swin", "Swin", PaperRow(2.0, 13.6, 78.2, 130.5, 17.4, 40.3), "swin"),
    _mixer("mixing_block", "Mixing Block", PaperRow(2.0, 13.6, 78.9, 130.0, 17.4, 42.3), "mixing_block"),
    _mixer("acmix", "ACmix Block", PaperRow(2.1, 13.9, 79.0, 131.4, 17.6, 41.5), "acmix"),
    _mixer("d_mixer", "D-Mixer", PaperRow(1.6, 11.4, 79.0, 118.0, 15.2, 42.7), "d_mixer"),
    Row(6, "dwconv", "DWConv", PaperRow(1.8, 12.5, 80.3, 122.0, 16.3, 44.1), {"local_operator": "dwconv"}),
    Row(
        6, "dyconv", "DyConv", PaperRow(1.8, 12.3, 80.7, 121.4, 16.5, 44.3), {"local_operator": "dyconv"},
        misprint=_DYCONV,
    ),
    Row(
        6, "window_attention", "Window Attention", PaperRow(1.9, 13.3, 80.8, 124.4, 17.0, 44.5),
        {"local_operator": "window_attention"},
    ),
    Row(6, "d_dwconv", "D-DWConv", PaperRow(1.8, 14.2, 80.9, 121.4, 18.0, 44.6), {"local_operator": "d_dwconv"}),
    Row(6, "idconv", "IDConv", PaperRow(1.8, 12.8, 80.9, 121.4, 16.6, 45.0)),
    Row(7, "none", "N/A", PaperRow(1.7, 12.5, 80.3, 119.3, 16.2, 44.0), {"ffn": "pointwise"}),
    Row(7, "1_3", "{1, 3}", PaperRow(1.7, 12.6, 80.6, 119.9, 16.4, 44.5), {"ffn_scales": (1, 3)}),
    Row(7, "3", "3 (Single-scale)", PaperRow(1.7, 12.7, 80.6, 120.3, 16.4, 44.6), {"ffn_scales": (3,)}),
    Row(7, "1_3_5", "{1, 3, 5}", PaperRow(1.7, 12.7, 80.7, 120.5, 16.5, 44.7), {"ffn_scales": (1, 3, 5)}),
    Row(7, "1_3_5_7", "{1, 3, 5, 7}", PaperRow(1.8, 12.8, 80.9, 121.4, 16.6, 45.0)),
    Row(
        7, "1_3_5_7_9", "{1, 3, 5, 7, 9}", PaperRow(1.8, 13.0, 81.0, 122.5, 16.8, 44.7),
        {"ffn_scales": (1, 3, 5, 7, 9)},
    ),
    Row(8, "0.25", "0.25", PaperRow(1.7, 12.5, 80.6, 120.3, 16.3, 44.1), {"attention_shares": 0.25}),
    Row(8, "0.5", "0.5", PaperRow(1.8, 12.8, 80.9, 121.4, 16.6, 45.0)),
    Row(8, "0.75", "0.75", PaperRow(1.8, 13.6, 80.9, 123.2, 17.4, 44.9), {"attention_shares": 0.75}),
    Row(
        9, "nsr", "NSR", PaperRow(1.8, 13.4, 80.5, 122.2, 17.1, 44.1),
        {"spatial_reduction": "nsr", "position_encoding": "none", "enhancer": "conv"},
    ),
    Row(
        9, "nsr_dpe", "NSR + DPE", PaperRow(1.9, 13.6, 80.8, 123.4, 17.3, 44.5),
        {"spatial_reduction": "nsr", "enhancer": "conv"},
    ),
    Row(9, "dpe_osr", "DPE + OSR", PaperRow(1.9, 13.6, 80.9, 123.5, 17.4, 44.7), {"enhancer": "conv"}),
    Row(9, "dpe_osr_ste", "DPE + OSR + STE", PaperRow(1.8, 12.8, 80.9, 121.4, 16.6, 45.0)),
)  # fmt: skip

ROWS: dict[str, Row] = {row.name: row for row in _ROWS}
"""All rows by their names, in the paper's order."""

NETWORKS: dict[str, TransXNetConfig] = VARIANTS | {
    row.network(base): row.config(base) for row in ROWS.values() for base in BASES
}
"""Every registered network: the variants, and each row of Tables V to IX on the Tiny and the nano network."""
