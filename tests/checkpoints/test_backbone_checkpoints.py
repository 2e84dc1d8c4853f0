"""Dense backbones from released files and our own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import transxnet
from helpers.networks import Released, holds, images, nano


@pytest.mark.parametrize("name", ["transxnet_tiny", "transxnet_t"])
def test_backbone_of_a_classifiers_file(released: Released, name: str) -> None:
    file = released("tiny")
    backbone = transxnet.create_backbone(name, checkpoint=file)
    assert (backbone.channels, backbone.strides) == ((48, 96, 224, 448), (4, 8, 16, 32))
    assert holds(backbone, file, without=("classifier.",))
    for norm in backbone.norms.values():
        assert norm.get_parameter("weight").eq(1).all()
        assert norm.get_parameter("bias").eq(0).all()


def test_backbone_of_a_backbones_file(released: Released) -> None:
    file = released("tiny", "backbone")
    assert holds(transxnet.create_backbone("transxnet_tiny", checkpoint={"state_dict": file}), file)


@pytest.mark.parametrize("kind", ["classifier", "backbone"])
@pytest.mark.parametrize("out_indices", [(1, 2, 3), (0, 1)])
def test_backbone_of_some_stages(released: Released, kind: str, out_indices: tuple[int, ...]) -> None:
    every = transxnet.create_backbone("transxnet_tiny", checkpoint=released("tiny", kind)).eval()
    some = transxnet.create_backbone("transxnet_tiny", checkpoint=released("tiny", kind), out_indices=out_indices)
    batch = images(1, 3, 64, 64)
    with torch.inference_mode():
        maps, expected = some.eval()(batch), every(batch)
    assert some.channels == tuple(every.channels[index] for index in out_indices)
    assert all(torch.equal(a, expected[index]) for a, index in zip(maps, out_indices, strict=True))


def test_backbone_of_our_file(tmp_path: Path) -> None:
    model = nano(attention_shares=(0.25, 0.5, 0.75, 0.5))
    transxnet.save_model(model, tmp_path / "model.safetensors")
    backbone = transxnet.create_backbone("transxnet_nano", checkpoint=tmp_path / "model.safetensors").eval()
    batch = images(1, 3, 75, 90)
    with torch.inference_mode():
        final, _ = model.forward_intermediates(batch)
        backbone.norms["3"].load_state_dict(model.norm.state_dict())
        assert torch.equal(backbone(batch)[-1], final)


@pytest.mark.parametrize("out_indices", [(), (4,), (-1,)])
def test_backbone_of_stages_that_do_not_exist(out_indices: tuple[int, ...]) -> None:
    with pytest.raises(transxnet.ConfigError, match="out_indices are stages from 0 to 3"):
        transxnet.create_backbone("transxnet_nano", out_indices=out_indices)


def test_backbone_of_an_unknown_name() -> None:
    with pytest.raises(transxnet.ConfigError, match="no network 'transxnet_huge'; did you mean"):
        transxnet.create_backbone("transxnet_huge")


def test_a_stem_of_other_channels_is_named() -> None:
    with pytest.raises(transxnet.CheckpointError, match=r"stem\.conv\.weight \(24, 1, 7, 7\) for \(24, 3, 7, 7\)"):
        transxnet.create_backbone("transxnet_nano", checkpoint=nano(in_chans=1).state_dict())
