"""Attention's kernels for CUDA devices, by Triton's interpreter, against PyTorch's attention in float64."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from helpers.cuda_device import DEVICE
from transxnet.kernels import FactoredBias, attention, flash_attention, operators, use
from transxnet.layers import PositionBias

pytest.importorskip("triton")

TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
"""Of outputs and gradients, relative to their largest value."""


UTILS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
"""PyTorch's checks of an operator; dynamic shapes include what static ones need."""


def table(*shape: int, seed: int = 0) -> Tensor:
    """A position bias, or a factor of one."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def maps(dtype: torch.dtype, *shape: int, scale: float = 1.0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * scale
    return x.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def expected(q: Tensor, kv: Tensor, whole: Tensor, heads: int, scale: float) -> Tensor:
    """Attention by PyTorch."""
    tokens: list[Any] = [x.reshape(len(x), heads, q.shape[1] // heads, -1).mT for x in (q, *kv.chunk(2, dim=1))]
    weights = (tokens[0] * scale @ tokens[1].mT + whole).softmax(dim=-1)
    mixed: Tensor = weights @ tokens[2]
    return mixed.mT.reshape(q.shape)


def check(q: Tensor, kv: Tensor, bias: Tensor, columns: Tensor | None, heads: int, scale: float) -> None:
    """Compare the operator and its gradients with PyTorch's in float64."""
    doubles = [x.detach().double().requires_grad_() for x in (q, kv, bias)]
    whole = doubles[2] if columns is None else doubles[2] @ columns.double().T
    wanted = expected(doubles[0], doubles[1], whole, heads, scale)
    gradient = maps(q.dtype, *q.shape[::-1]).permute(3, 2, 1, 0)
    gradients = torch.autograd.grad(wanted, doubles, gradient.double())
    leaves = [x.detach().requires_grad_() for x in (q, kv, bias)]
    with use("triton"):
        found = torch.ops.transxnet.attention(*leaves, columns, heads, scale)
        assert found.dtype == q.dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert_close(found, wanted)
        for one, other in zip(torch.autograd.grad(found, leaves, gradient), gradients, strict=True):
            assert_close(one, other, q.dtype)


def assert_close(found: Tensor, wanted: Tensor, dtype: torch.dtype | None = None) -> None:
    assert found.shape == wanted.shape
    error = float((found.detach().double() - wanted.detach()).abs().max()) / max(
        float(wanted.detach().abs().max()), 1e-3
    )
    assert error <= TOLERANCES[dtype or found.dtype]  # and no NaN


@pytest.mark.parametrize(
    ("batch", "heads", "width", "size", "keys"),
    [
        (1, 1, 12, (3, 5), (1, 1)),
        (2, 1, 19, (9, 8), (7, 7)),
        (1, 1, 24, (5, 7), (7, 10)),
        (3, 1, 28, (1, 67), (7, 7)),
        (2, 1, 32, (11, 1), (1, 17)),
    ],
)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_attention_and_its_gradients(
    dtype: torch.dtype, batch: int, heads: int, width: int, size: tuple[int, int], keys: tuple[int, int]
) -> None:
    q, kv = maps(dtype, batch, heads * width, *size), maps(dtype, batch, 2 * heads * width, *keys)
    check(q, kv, table(1, heads, size[0] * size[1], keys[0] * keys[1]), None, heads, width**-0.5)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("keys", [(3, 5), (6, 11)])
def test_a_factored_bias(dtype: torch.dtype, keys: tuple[int, int]) -> None:
    """Of few keys, and of many in two blocks and a part of one."""
    q, kv = maps(dtype, 1, 38, 3, 7), maps(dtype, 1, 76, *keys)
    columns = table(keys[0] * keys[1], 9, seed=1)
    check(q, kv, table(1, 2, 21, 9, seed=2), columns, 2, 19**-0.5)


@pytest.mark.parametrize("keys", [(3, 5), (5, 13)])
def test_slices_and_other_layouts(keys: tuple[int, int]) -> None:
    """Maps that are channels of larger ones, and those with the channels first."""
    q, kv = maps(torch.float32, 1, 30, 2, 3), maps(torch.float32, 1, 35, *keys)
    bias = table(1, 1, 6, keys[0] * keys[1])
    check(q[:, 13:25], kv[:, 3:27], bias, None, 1, 1.0)
    check(q[:, :12].contiguous(), kv[:, :24].contiguous(), bias, None, 1, 1.0)


@pytest.mark.parametrize("keys", [(3, 5), (6, 11)])
def test_scores_beyond_float16(keys: tuple[int, int]) -> None:
    """Sums of products larger than 65,504."""
    q, kv = maps(torch.float16, 1, 12, 4, 4, scale=300.0), maps(torch.float16, 1, 24, *keys)
    kv[:, :12] *= 300
    bias = table(1, 1, 16, keys[0] * keys[1])
    with use("triton"):
        found = torch.ops.transxnet.attention(q, kv, bias, None, 1, 1.0)
    assert_close(found, expected(q.double(), kv.double(), bias.double(), 1, 1.0))


def test_the_operator_is_what_pytorch_expects() -> None:
    q, kv = maps(torch.float32, 1, 4, 1, 2).requires_grad_(), maps(torch.float32, 1, 8, 2, 1).requires_grad_()
    bias = table(1, 1, 2, 2).requires_grad_()
    with use("triton"):
        torch.library.opcheck(torch.ops.transxnet.attention.default, (q, kv, bias, None, 1, 0.5), test_utils=UTILS)


@pytest.mark.parametrize("keys", [(1, 2), (5, 13)])
def test_autocast_chooses_the_type(keys: tuple[int, int]) -> None:
    """Of maps of float32, with a factored bias whose product is of float32 nevertheless where it is computed."""
    q, kv = maps(torch.float32, 1, 8, 2, 2), maps(torch.float32, 1, 16, *keys)
    rows, columns = table(1, 2, 4, 3).requires_grad_(), table(keys[0] * keys[1], 3)
    with use("triton"), torch.autocast(DEVICE, dtype=torch.bfloat16):
        found = attention(q, kv, FactoredBias(rows, columns), 2)
        found.float().sum().backward()
    assert found.dtype == torch.bfloat16
    assert_close(found, expected(q.double(), kv.double(), rows.double() @ columns.double().T, 2, 0.5))
    assert rows.grad is not None
    assert rows.grad.dtype == torch.float32


def test_wide_heads_are_computed_by_pytorch() -> None:
    q, kv = maps(torch.float32, 1, 130, 1, 2), maps(torch.float32, 1, 260, 1, 3)
    bias = table(1, 1, 2, 3)
    with use("triton"), patch.object(operators, "attention", side_effect=AssertionError):
        found = attention(q, kv, bias, 1)
    assert_close(found, expected(q.double(), kv.double(), bias.double(), 1, 130**-0.5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_form_for_flash_attention(dtype: torch.dtype) -> None:
    """Forward and backward; in float64 it is exact."""
    q, kv = maps(dtype, 2, 2 * 19, 5, 7), maps(dtype, 2, 4 * 19, 3, 100)
    rows, columns = maps(torch.float64, 1, 2, 35, 9).contiguous(), maps(torch.float64, 1, 1, 300, 9)[0, 0]
    doubles = [x.double().requires_grad_() for x in (q, kv, rows)]
    leaves = [x.detach().clone().requires_grad_() for x in (q, kv, rows)]
    wanted = expected(doubles[0], doubles[1], doubles[2] @ columns.T, 2, 19**-0.5)
    found = flash_attention.attention(leaves[0], leaves[1], FactoredBias(leaves[2], columns), 2, 19**-0.5)
    assert found.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-2
    gradient = maps(torch.float64, *q.shape)
    gradients = torch.autograd.grad(found, leaves, gradient.to(dtype))
    exact = torch.autograd.grad(wanted, doubles, gradient)
    for one, other in ((found, wanted), *zip(gradients, exact, strict=True)):
        assert (one.double() - other).abs().max() <= tolerance * other.abs().max()


def test_a_resized_bias_of_many_keys_stays_in_factors() -> None:
    """Also a small one; and those of large tables reach flash attention, which takes no mask."""
    with use("triton"), torch.no_grad():
        stage = PositionBias(2, (4, 4), 1).to(DEVICE)
        assert isinstance(stage(torch.empty(1, 8, 20, 20, device=DEVICE)), FactoredBias)
        assert isinstance(stage(torch.empty(1, 8, 7, 8, device=DEVICE)), Tensor)
        stage = PositionBias(2, (10, 10), 1).to(DEVICE)
        torch.nn.init.normal_(stage.table)
        q, kv = maps(torch.float32, 1, 24, 11, 11), maps(torch.float32, 1, 48, 11, 11)
        bias = stage(q)
        assert_close(attention(q, kv, bias, 2), expected(q.double(), kv.double(), bias.multiplied(), 2, 12**-0.5))
