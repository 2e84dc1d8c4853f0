"""Recomputing blocks in the backward pass changes nothing but the memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.networks import create, images, nano, nano_features


def training_steps(model: Any, batch: int, checkpointing: bool) -> dict[str, Tensor]:
    """Everything that two training steps leave behind, and an evaluation afterwards."""
    model = copy.deepcopy(model).train()
    model.set_grad_checkpointing(checkpointing)
    left: dict[str, Tensor] = {}
    torch.manual_seed(0)
    for step in range(2):
        outputs = model(images(batch, 3, 64, 64))
        outputs = outputs if isinstance(outputs, list) else [outputs]
        sum(output.square().mean() for output in outputs).backward()
        left |= {f"output {step} {index}": output.detach() for index, output in enumerate(outputs)}
    left |= {f"gradient {name}": parameter.grad for name, parameter in model.named_parameters()}
    left |= {f"buffer {name}": buffer for name, buffer in model.named_buffers()}
    with torch.inference_mode():
        left["evaluation"] = torch.cat([output.flatten() for output in model.eval()(images(1, 3, 32, 64))])
    return left


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("features_only", [False, True])
def test_checkpointing_changes_nothing(features_only: bool, batch: int) -> None:
    model = nano(drop_path_rate=0.3, ffn_drop_rate=0.2)
    network = nano_features(model, drop_path_rate=0.3, ffn_drop_rate=0.2) if features_only else model
    without, with_ = (training_steps(network, batch, checkpointing) for checkpointing in (False, True))
    assert without.keys() == with_.keys()
    assert [name for name in without if not torch.equal(without[name], with_[name])] == []


@pytest.mark.parametrize("features_only", [False, True])
def test_checkpointing_recomputes_the_blocks(features_only: bool) -> None:
    network = create("transxnet_nano", features_only=features_only).train()
    passes: list[nn.Module] = []
    for module in network.modules():
        if type(module).__name__ == "DMixer":
            module.register_forward_hook(lambda module, *_: passes.append(module))
    for enable in (True, False):
        network.set_grad_checkpointing(enable)
        passes.clear()
        outputs = network(images(2, 3, 64, 64))
        (outputs[-1] if features_only else outputs).sum().backward()
        assert len(passes) == (12 if enable else 6)


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_checkpointing_can_be_compiled(backend: str) -> None:
    plain, recomputed = nano().train(), nano().train()
    recomputed.set_grad_checkpointing()
    for network, model in ((plain, plain), (recomputed, torch.compile(recomputed, backend=backend))):
        model(images(2, 3, 64, 64)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
    for one, other in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)
    for statistic, again in zip(plain.buffers(), recomputed.buffers(), strict=True):
        torch.testing.assert_close(statistic, again, rtol=1e-5, atol=1e-5)
