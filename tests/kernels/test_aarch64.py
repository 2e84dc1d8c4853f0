"""The kernels compute the same on 64-bit ARM: compiled for it, and run by an emulator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import transxnet
from helpers.networks import images, nano
from helpers.recorded_calls import Recording, recorded
from transxnet import kernels
from transxnet.kernels.cpu import levels
from transxnet.layers import position_bias

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
SOURCES = Path(kernels.__file__).parent / "cpu"
TOLERANCES = {torch.float32: 2e-5, torch.float64: 2e-5, torch.bfloat16: 4e-2, torch.float16: 1e-2}
"""As between native kernels and PyTorch, by the type that a tensor is stored in."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
        reason=f"needs {COMPILER} and {EMULATOR}: on Debian, apt install g++-aarch64-linux-gnu qemu-user",
    ),
]


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``replay(recording)``: the output of replay.cpp, compiled as a wheel's kernels are."""
    program = tmp_path_factory.mktemp("aarch64") / "replay"
    flags = (*levels.FLAGS, *levels.LIBRARIES["aarch64"]["neon"], "-static", f"-I{SOURCES}")
    subprocess.run([COMPILER, *flags, Path(__file__).with_name("replay.cpp"), "-o", program], check=True)

    def run(recording: Recording) -> bytes:
        return subprocess.run(
            [EMULATOR, program], input=recording.packed(), stdout=subprocess.PIPE, check=True, timeout=3000
        ).stdout

    return run


@pytest.fixture
def two_threads() -> Any:
    """Two threads; uninitialised memory is NaN, which the comparison knows."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_fused_network_is_the_same(dtype: torch.dtype, replay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of two sizes, of which one has its position biases in factors; maps stored in each type."""
    model = nano()
    with recorded() as recording, torch.inference_mode():
        fused = transxnet.fuse(model, native=True).to(dtype)
        fused(images(2, 3, 33, 90).to(dtype))
        monkeypatch.setattr(position_bias, "LARGEST_MAP", 0)
        fused(images(1, 3, 130, 70).to(dtype))
    names = {call.name for call in recording.calls if call.outputs}
    assert names == {f"blocks_{str(dtype).removeprefix('torch.')}", "block_room"}
    recording.compare(replay(recording), TOLERANCES)


@pytest.mark.usefixtures("two_threads")
def test_training_is_the_same(replay: Any) -> None:
    """All operators and their gradients, as a network's training calls them."""
    model = nano().train().to(memory_format=torch.channels_last)
    x = images(2, 3, 70, 90).contiguous(memory_format=torch.channels_last)
    with recorded() as recording, kernels.use("native"):
        model(x).square().sum().backward()
        more: Tensor = torch.randn(3, 5, 7).requires_grad_()
        kernels.gelu(more).sum().backward()
    assert {call.name for call in recording.calls if call.outputs} == {
        "depthwise_float32", "kernel_gradient_float32", "attention_room", "attention_float32",
        "attention_gradients_float32", "batch_norm_float32", "batch_norm_gradients_float32", "scale_gradients_float32",
        "gelu_float32", "gelu_gradient_float32",
    }  # fmt: skip
    recording.compare(replay(recording), TOLERANCES)
