"""Networks on a CUDA device compute what the released code computed on a CPU, by our kernels and by PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import transxnet
from golden import fixture
from helpers.cuda_device import NEEDS_DEVICE
from helpers.networks import (
    NAMES,
    VANISHING,
    described_size,
    difference,
    golden,
    images,
    lively,
    lively_dense,
    nano,
    relative,
)
from transxnet import kernels
from transxnet.checkpoints.released import rename

pytestmark = NEEDS_DEVICE

POLICIES = ("auto", "reference")
LAST = torch.channels_last


@pytest.fixture(autouse=True)
def _strict_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's convolutions round float32 to TF32 by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.fixture(scope="module")
def classifier(released: Callable[..., dict[str, Tensor]]) -> transxnet.TransXNet:
    return transxnet.create_model("transxnet_tiny", checkpoint=released("tiny")).eval().cuda()


FORMS: dict[str, Callable[[Any], Any]] = {
    "as trained": lambda model: model,
    "fused": transxnet.fuse,
    "compiled": lambda model: torch.compile(model, dynamic=False, fullgraph=True),
    "fused and compiled": lambda model: torch.compile(transxnet.fuse(model), dynamic=False, fullgraph=True),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(2, 3, 224, 224), (1, 3, 256, 192)])
def test_logits(classifier: transxnet.TransXNet, shape: tuple[int, ...], form: str, policy: Any) -> None:
    expected = golden(f"tiny_logits_{'x'.join(map(str, shape))}")["logits"]
    torch._dynamo.reset()
    with torch.inference_mode(), kernels.use(policy):
        logits = FORMS[form](classifier)(images(*shape).cuda()).cpu().numpy()
    assert difference(logits, expected) <= 2e-5


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fused", [False, True], ids=["as trained", "fused"])
def test_dense_maps(released: Callable[..., dict[str, Tensor]], fused: bool, policy: Any) -> None:
    expected = golden("tiny_features_1x3x256x320")
    backbone = transxnet.create_backbone("transxnet_tiny", checkpoint=released("tiny", "backbone")).eval().cuda()
    if fused:
        backbone = transxnet.fuse(backbone)
    with torch.inference_mode(), kernels.use(policy):
        outputs = [output.cpu().contiguous().numpy() for output in backbone(images(1, 3, 256, 320).cuda())]
    for stage, output in enumerate(outputs):
        sample, std = expected[f"sample{stage}"], expected[f"std{stage}"]
        assert difference(fixture.sample(output, len(sample)), sample) <= 2e-5
        assert abs(output.mean(dtype=np.float64) - expected[f"mean{stage}"]) <= 2e-5 * std


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_gradients(released: Callable[..., dict[str, Tensor]], compiled: bool, policy: Any) -> None:
    expected = golden("tiny_gradients_4x3x224x224")
    model: Any = transxnet.create_model("transxnet_tiny", checkpoint=released("tiny")).train().cuda()
    torch._dynamo.reset()
    with kernels.use(policy):
        logits = (torch.compile(model, dynamic=False) if compiled else model)(images(4, 3, 224, 224).cuda())
        (logits * torch.from_numpy(fixture.probe(tuple(logits.shape))).cuda()).sum().backward()
    assert difference(logits.detach().cpu().numpy(), expected["logits"]) <= 2e-5
    gradients = {name: one.grad.cpu() for name, one in model.named_parameters()}
    worst = {}
    for name, sample in expected.items():
        if not name.startswith("grad/") or name.endswith(VANISHING):
            continue
        gradient = gradients[rename(name.removeprefix("grad/"))]
        worst[name] = difference(fixture.sample(gradient.contiguous().numpy(), len(sample)), sample)
    assert {name: one for name, one in worst.items() if one > 2e-3} == {}


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_every_network_in_bfloat16(name: str) -> None:
    """Fused, as ``predict`` uses it; its error is at most 1.2 times that of PyTorch's operators."""
    model = lively(transxnet.create_model(name)).eval()
    x = images(2, *described_size(model))
    expected = model(x)
    model, x = model.cuda(), x.cuda()
    with kernels.use("auto"):
        assert relative(transxnet.fuse(model)(x), expected) < 2e-5
        half = transxnet.fuse(model).bfloat16()(x.bfloat16())
    with kernels.use("reference"):
        of_pytorch = model.bfloat16()(x.bfloat16())
    assert relative(half, expected) <= 1.2 * relative(of_pytorch, expected)


@pytest.mark.parametrize("side", [96, 224, 320])
@torch.inference_mode()
def test_any_size(side: int) -> None:
    """Tables of the position bias are resized; the larger ones are attended by flash attention."""
    model, x = nano(), images(1, 3, side, side + 32)
    expected = model(x)
    assert relative(transxnet.fuse(model.cuda())(x.cuda()), expected) < 2e-5


@torch.inference_mode()
def test_a_cuda_graph() -> None:
    model, x = transxnet.fuse(nano().cuda()), images(4, 3, 64, 64).cuda()
    torch._dynamo.reset()
    expected, compiled = model(x), torch.compile(model, dynamic=False, mode="reduce-overhead")
    for _ in range(4):  # recorded on the way
        assert relative(compiled(x), expected) < 2e-5


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn", "semantic_fpn"])
@torch.inference_mode()
def test_detectors_and_segmenters(kind: str) -> None:
    model, x = lively_dense(kind), images(1, 3, 96, 128)
    expected = model.backbone(x)
    found = transxnet.fuse(model.cuda()).backbone(x.cuda())
    for name, one in expected.items():
        assert relative(found[name], one) < 2e-5
