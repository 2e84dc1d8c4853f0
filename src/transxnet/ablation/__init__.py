"""The alternatives that Tables V to IX of the paper compare, and one named row for each of the tables' rows.

Every alternative is a part that registers itself (:mod:`transxnet.layers.registry`) and that the network's
configuration names, so that a row is a configuration and not another network. The rows
(:mod:`transxnet.ablation.rows`) are data, and ``zoo.py`` registers each with timm::

    row = ablation.ROWS["table6/dwconv"]
    model = transxnet.create_model(row.network())         # transxnet_tiny_table6_dwconv
    small = transxnet.create_model(row.network("nano"))   # the same alternative on the nano network
"""

from transxnet.ablation import (  # importing them registers them
    acmix,
    d_dwconv,
    dwconv,
    dyconv,
    ffn,
    mixing_block,
    sep_conv,
    sra,
    swin,
    window_attention,
)
from transxnet.ablation.rows import ROWS, Row

__all__ = [
    "ROWS",
    "Row",
    "acmix",
    "d_dwconv",
    "dwconv",
    "dyconv",
    "ffn",
    "mixing_block",
    "sep_conv",
    "sra",
    "swin",
    "window_attention",
]
