"""Two processes whose batch normalisations see both batches, against one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import torch

from helpers.networks import assert_same
from helpers.two_processes import batch, in_two, network, step
from transxnet.layers import BatchNorm2d, synchronise_statistics


def test_two_processes_normalise_as_one(tmp_path: Path) -> None:
    """Outputs, gradients and statistics; also compiled as a single graph, and by the kernels for CUDA devices."""
    whole = network().double()
    expected = step(whole, whole, batch().double())
    for mode, (first, second) in in_two(tmp_path).items():
        assert first.keys() == expected.keys()
        for name, value in expected.items():
            pair = first[name], second[name]
            if name.startswith("buffer"):
                assert torch.equal(*pair), (mode, name)
                assert_same(pair[0], value, 1e-6)
            elif name in ("output", "gradient of the input"):
                assert_same(torch.cat(pair), value, 2e-5)
            else:
                assert_same(pair[0] + pair[1], value, 2e-5)


def test_a_single_process_synchronises_nothing() -> None:
    model = torch.nn.Sequential(BatchNorm2d(2), torch.nn.BatchNorm2d(2))
    names = list(model.state_dict())
    synchronise_statistics(model)
    assert [type(norm) for norm in model] == [BatchNorm2d, BatchNorm2d] and list(model.state_dict()) == names
    assert all(norm.group == "" for norm in model)
