"""A network fused with native kernels is the same function, for any number of images and threads, and any size."""

from __future__ import annotations

import copy
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import transxnet
from helpers.networks import assert_same, dense, hostile, images, lively, nano
from transxnet import ConfigError
from transxnet.ablation.rows import ROWS, Row
from transxnet.kernels.cpu import build
from transxnet.kernels.cpu.blocks import NativeBlocks
from transxnet.layers import position_bias


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32), batch=st.sampled_from([1, 2, 7]), height=st.integers(32, 130),
    width=st.integers(32, 130), groups=st.integers(1, 4), kernel_size=st.sampled_from([3, 5, 7]),
    resize=st.sampled_from(["flattened", "geometric"]), factors=st.booleans(),
)  # fmt: skip
def test_any_network_is_the_same(
    seed: int, batch: int, height: int, width: int, groups: int, kernel_size: int, resize: Any, factors: bool
) -> None:
    """Also with position biases in factors, as large maps have them."""
    network = nano(attention_groups=groups, kernel_sizes=kernel_size, position_bias_resize=resize)
    model = hostile(network, seed, 0.3)
    x = images(batch, 3, height, width)
    fused = transxnet.fuse(model, native=True)
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        expected = model.forward_features(x)
        if factors:
            patch.setattr(position_bias, "LARGEST_MAP", 0)
        assert_same(fused.forward_features(x), expected)
    assert sum(isinstance(module, NativeBlocks) for module in fused.modules()) == 4


@pytest.mark.parametrize(
    "name",
    ["transxnet_tiny", *(pytest.param(f"transxnet_{size}", marks=pytest.mark.slow) for size in ("small", "base"))],
)
def test_the_papers_networks_are_the_same(name: str) -> None:
    model = lively(transxnet.create_model(name)).eval()
    fused = transxnet.fuse(model, native=True)
    with torch.inference_mode():
        for shape in ((1, 3, 224, 224), (2, 3, 100, 70)):
            assert_same(fused(images(*shape)), model(images(*shape)))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (7, 3, 33, 90), (3, 3, 300, 40), (4, 3, 64, 64)])
def test_every_size_with_any_number_of_threads(shape: tuple[int, ...], threads: int) -> None:
    """Few rows, few columns, maps smaller than a kernel; images that threads do not share evenly."""
    model = nano()
    fused = transxnet.fuse(model, native=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            assert_same(fused(images(*shape)), model(images(*shape)))
            assert fused(images(0, 3, 64, 64)).shape == (0, model.num_classes)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["backbone", "semantic_fpn", "retinanet", "mask_rcnn"])
def test_dense_networks_are_the_same(kind: str) -> None:
    model = lively(dense(kind)).eval()
    fused = transxnet.fuse(model, native=True)
    photographs = images(2, 3, 64, 80).abs() / 2
    with torch.inference_mode():
        if kind in ("retinanet", "mask_rcnn"):
            assert_same(fused.backbone(photographs), model.backbone(photographs))
        else:
            assert_same(fused(photographs), model(photographs))


# With and without parts that the kernels know; the others are rows of these kinds.
KINDS = ("table5/sra", "table6/dwconv", "table6/d_dwconv", "table7/1_3_5_7_9", "table8/0.25", "table9/nsr")


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=name, marks=[] if name in KINDS else pytest.mark.slow) for name, row in ROWS.items()]
)
def test_the_ablations_networks_are_the_same(row: Row) -> None:
    """Stages with parts that the kernels do not know are left to PyTorch."""
    model = lively(transxnet.create_model(row.network("nano"), num_classes=5, img_size=64)).eval()
    fused = transxnet.fuse(model, native=True)
    with torch.inference_mode():
        assert_same(fused(images(2, 3, 70, 96)), model(images(2, 3, 70, 96)))


def test_bfloat16_is_near() -> None:
    """Between blocks; inside them it is float32."""
    model = nano()
    fused = transxnet.fuse(model, native=True).to(torch.bfloat16)
    x = images(2, 3, 64, 96)
    with torch.inference_mode():
        found = fused(x.bfloat16())
        assert found.dtype == torch.bfloat16
        assert_same(found.float(), model(x), 2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_share_a_network(dtype: torch.dtype) -> None:
    """From the first image on."""
    fused = transxnet.fuse(nano(), native=True).to(dtype)
    inputs = [images(1, 3, 64 + 16 * index, 64).to(dtype) for index in range(4)] * 6
    fresh = copy.deepcopy(fused)

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            scores: torch.Tensor = fused(x)
            return scores

    expected = [run(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        fused = fresh
        for found, one in zip(pool.map(run, inputs), expected, strict=True):
            assert torch.equal(found, one)


def test_it_can_be_copied_pickled_and_given_another_size() -> None:
    model = nano()
    fused = transxnet.fuse(model, native=True)
    x = images(1, 3, 64, 64)
    with torch.inference_mode():
        expected = fused(x)
        file = io.BytesIO()
        torch.save(fused, file)
        file.seek(0)
        for other in (copy.deepcopy(fused), torch.load(file, weights_only=False)):
            assert torch.equal(other(x), expected)
        fused.set_input_size(96)
        assert_same(fused(images(1, 3, 96, 96)), model(images(1, 3, 96, 96)))


def test_mistakes_are_reported_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = nano()
    fused = transxnet.fuse(model, native=True)
    with pytest.raises(ConfigError, match="has no gradients; use the original network"):
        fused(images(1, 3, 64, 64).requires_grad_())
    with pytest.raises(ConfigError, match="takes float32, bfloat16 or float16 maps on a CPU, not torch.float64"):
        transxnet.fuse(nano().double(), native=True)(images(1, 3, 64, 64).double())
    with pytest.raises(ConfigError, match="fused already"):
        transxnet.fuse(fused)
    with pytest.raises(ConfigError, match="leave no choice of depthwise"):
        transxnet.fuse(model, native=True, depthwise="single")
    with pytest.raises(ConfigError, match="fuse takes a network of this package"):
        transxnet.fuse(nn.Linear(2, 2), native=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for compiler, error in (("not-there", "need a C\\+\\+ compiler, and CXX='not-there' is not an executable program"),
                            ("false", "and CXX='false' cannot be used.*leave out --fuse")):  # fmt: skip
        monkeypatch.setenv("CXX", compiler)
        build._library.cache_clear()
        with pytest.raises(ConfigError, match=error):
            transxnet.fuse(model, native=True)
    build._library.cache_clear()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
