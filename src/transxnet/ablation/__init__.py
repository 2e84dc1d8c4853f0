"""The alternatives that Tables V to IX of the paper compare, and one named row for each of the tables' rows.

Every alternative is a part that the network's configuration names, so that a row is a
configuration and not another network. The parts therefore stand above ``model.py`` and need only
the layers; :mod:`transxnet.parts` picks them by a configuration's words. The rows
(:mod:`transxnet.ablation.rows`) are data, and ``registry.py`` registers each with timm::

    row = ablation.ROWS["table6/dwconv"]
    model = transxnet.create_model(row.network())         # transxnet_tiny_table6_dwconv
    small = transxnet.create_model(row.network("nano"))   # the same alternative on the nano network
"""

from transxnet.ablation.rows import ROWS, Row

__all__ = ["ROWS", "Row"]
