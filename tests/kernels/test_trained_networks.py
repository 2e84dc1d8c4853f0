"""Networks train with native kernels as with PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import transxnet
from helpers.networks import ONCE, ablation_rows, assert_same, images, lively, nano
from transxnet.ablation.rows import Row
from transxnet.kernels import use
from transxnet.layers import position_bias


@pytest.fixture(autouse=True)
def native_policy() -> Iterator[None]:
    with use("native"):
        yield


def assert_trains_the_same(model: nn.Module, x: Tensor, layout: torch.memory_format) -> nn.Module:
    """Compare with float64: gradients within 2e-3, running statistics about as precise as PyTorch's in float32.

    Returns a copy trained for a step with native kernels.
    """
    ours, plain = (copy.deepcopy(model).train().to(memory_format=layout) for _ in range(2))
    exact = model.train().double()
    for network in (ours, plain, exact):
        given = x.double() if network is exact else x.contiguous(memory_format=layout)
        with use("reference" if network is plain else "native"):
            network(given).square().sum().backward()
    largest = max(float(parameter.grad.abs().max()) for parameter in exact.parameters() if parameter.grad is not None)
    for (name, one), other in zip(exact.named_parameters(), ours.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad - other.grad).abs().max() <= 2e-3 * largest, name
    for (name, buffer), *others in zip(exact.named_buffers(), ours.buffers(), plain.buffers(), strict=True):
        off, usual = (float((buffer - other).abs().max() / buffer.abs().max()) for other in others)
        assert off <= max(2e-5, 2 * usual), name
    model.float()
    return ours


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_a_network_is_the_same(layout: torch.memory_format, checkpointing: bool) -> None:
    """Compare outputs, statistics and all gradients; names and weights are unchanged."""
    model = nano(depths=ONCE)
    model.set_grad_checkpointing(checkpointing)
    x = images(3, 3, 75, 90)
    ours = assert_trains_the_same(model, x, layout).eval()
    with use("reference"):
        expected = model.eval()(x)
    assert_same(ours(x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).isfinite().all()
    ours.load_state_dict(model.state_dict())
    assert_same(ours.double()(x.double()), model.double()(x.double()), 1e-10)  # computed by PyTorch


@pytest.mark.parametrize("row", ablation_rows())
def test_training_the_ablations_networks_is_the_same(row: Row) -> None:
    model = lively(transxnet.create_model(row.network("nano"), num_classes=5, img_size=64, depths=ONCE))
    assert_trains_the_same(model, images(2, 3, 70, 96), torch.channels_last)


def test_large_maps_train_the_same() -> None:
    """With a factored position bias."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(position_bias, "LARGEST_SCORES", 0)
        assert_trains_the_same(nano(depths=ONCE), images(2, 3, 100, 140), torch.channels_last)
