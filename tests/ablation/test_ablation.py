"""Every row of Tables V to IX as a network."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

import transxnet
from helpers.commands import TWO_BLOCKS, paint, run
from helpers.networks import ONCE, images, lively
from transxnet import ConfigError, TransXNetConfig
from transxnet.ablation import ROWS, Row
from transxnet.ablation.acmix import ACmix
from transxnet.ablation.rows import BASES

_DIFFERENT = {row.config("nano"): row for row in reversed(ROWS.values())}.values()
EVERY_ROW = pytest.mark.parametrize("row", _DIFFERENT, ids=lambda row: row.name)  # the paper's own network once
close = torch.testing.assert_close


def small(row: Row, **settings: Any) -> transxnet.TransXNet:
    """The row on the nano network with one block in each stage."""
    torch.manual_seed(0)
    return transxnet.create_model(row.network("nano"), **{"num_classes": 5, "depths": ONCE, **settings})


def test_every_row_is_registered_on_both_bases() -> None:
    assert len(ROWS) == 24
    assert set(timm.list_models("transxnet_*_table*")) == {row.network(base) for row in ROWS.values() for base in BASES}


@pytest.mark.parametrize("base", BASES)
@EVERY_ROW
def test_a_rows_configuration_survives_json(row: Row, base: str) -> None:
    config = row.config(base)
    assert TransXNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_papers_own_network_is_a_row_of_every_table_from_6() -> None:
    own = [name for name, row in ROWS.items() if row.config() == transxnet.VARIANTS["transxnet_tiny"]]
    assert own == ["table6/idconv", "table7/1_3_5_7", "table8/0.5", "table9/dpe_osr_ste"]
    assert len({row.config("nano") for row in ROWS.values()}) == len(ROWS) - 3


@pytest.mark.parametrize("size", [(224, 224), (160, 288), (33, 47)])
@EVERY_ROW
def test_a_row_classifies_images_of_any_size(row: Row, size: tuple[int, int]) -> None:
    model = small(row).eval()
    with torch.inference_mode():
        logits = model(images(1, 3, *size))
    assert logits.shape == (1, 5)
    assert logits.isfinite().all()


@EVERY_ROW
def test_a_step_lowers_the_loss_and_reaches_every_parameter(row: Row) -> None:
    model, batch, labels = small(row).train(), images(6, 3, 64, 64), torch.arange(6) % 5

    def loss_of() -> Tensor:
        return F.cross_entropy(model(batch), labels)

    before = loss_of()
    before.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert silent == []
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert loss_of() < before


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] * (row.table > 6)) for row in _DIFFERENT],  # those differ in sizes
    ids=lambda row: row.name,
)
def test_recomputation_changes_nothing(row: Row) -> None:
    plain = lively(small(row)).train()
    recomputed = copy.deepcopy(plain)
    recomputed.set_grad_checkpointing()
    for model in (plain, recomputed):
        model(images(2, 3, 40, 40)).square().mean().backward()
    for (name, parameter), again in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert parameter.grad is not None and again.grad is not None
        close(parameter.grad, again.grad, rtol=1e-4, atol=1e-6, msg=name)
    statistics = zip(plain.buffers(), recomputed.buffers(), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-6) for one, other in statistics)


@EVERY_ROW
def test_a_row_takes_other_channels_classes_and_sizes(row: Row) -> None:
    model = small(row, in_chans=1).eval()
    model.reset_classifier(7)
    with torch.inference_mode():
        before = model(images(2, 1, 64, 96))
        assert before.shape == (2, 7)
        model.set_input_size((64, 96))
        assert torch.equal(model(images(2, 1, 64, 96)), before)
    assert model.config.img_size == (64, 96)


@pytest.mark.parametrize("name", ["table5/swin", "table5/d_mixer", "table6/dyconv", "table7/none", "table9/nsr"])
def test_a_rows_network_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model, batch = lively(small(ROWS[name], img_size=64)).eval(), images(2, 3, 64, 64)
    loaded = transxnet.load_model(transxnet.save_model(model, tmp_path / "row.safetensors")).eval()
    assert loaded.config == model.config
    with torch.inference_mode():
        assert torch.equal(loaded(batch), model(batch))


@pytest.mark.parametrize("name", ["table5/acmix", "table6/window_attention", "table9/nsr_dpe"])
def test_a_row_serves_dense_prediction(name: str, tmp_path: Path) -> None:
    network = ROWS[name].network("nano")
    weights = transxnet.save_model(small(ROWS[name]), tmp_path / "row.safetensors")
    sizes: dict[str, Any] = {"num_classes": 4, "pyramid_channels": 16, "depths": ONCE}
    segmenter = transxnet.create_segmenter(backbone=network, backbone_checkpoint=weights, **sizes)
    scores = segmenter(images(2, 3, 64, 96))
    assert scores.shape == (2, 4, 64, 96)
    scores.square().mean().backward()
    features = timm.create_model(network, features_only=True, depths=ONCE)
    assert [tuple(each.shape[2:]) for each in features(images(1, 3, 33, 47))] == [(9, 12), (5, 6), (3, 3), (2, 2)]


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith(("table5", "table6"))])
def test_rows_can_be_traced(name: str) -> None:
    network = ROWS[name].network("nano")
    model = timm.create_model(network, features_only=True, feature_cls="fx", depths=ONCE).eval()
    shapes = [tuple(features.shape[1:]) for features in model(images(1, 3, 32, 32))]
    assert shapes == [(24, 8, 8), (48, 4, 4), (96, 2, 2), (160, 1, 1)]


def test_a_row_is_trained_from_the_command_line(tmp_path: Path) -> None:
    paint(tmp_path / "photos", 6)
    settings = ("--recipe", "digits", "--model", "transxnet_nano_table5_mixing_block", "--epochs", 1, "--batch-size", 4)
    assert run("train", *settings, *TWO_BLOCKS, "--data", tmp_path / "photos", "--out", tmp_path / "run") == 0
    assert transxnet.load_model(tmp_path / "run").config.token_mixer == "mixing_block"


def test_acmix_starts_as_shifts_and_halves_even_in_a_network() -> None:
    for module in small(ROWS["table5/acmix"]).modules():
        if isinstance(module, ACmix):
            x = torch.zeros(1, module.dep_conv.in_channels, 3, 3)
            x[:, :, 1, 1] = torch.arange(module.dep_conv.in_channels) % 9 + 1.0  # the i-th of a group, for shift i
            shifted = module.dep_conv(x)[0, 0]  # what goes up comes from below
            assert torch.equal(shifted.flatten().flip(0), torch.arange(1.0, 10))
            assert (module.rate1.item(), module.rate2.item()) == (0.5, 0.5)


# Mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_mixer": "d_mixr"}, 'choose "d_mixer", "acmix", "mixing_block", "sep_conv", "sra"'),
        ({"local_operator": "conv"}, "local_operator 'conv' is not registered"),
        ({"ffn": "mlp"}, 'choose "ms_ffn", "pointwise" or "vanilla"'),
        ({"spatial_reduction": 2}, 'spatial_reduction is "osr" or "nsr", not 2'),
        ({"ffn_scales": ()}, "ffn_scales needs 1 to 16 values, not 0"),
        ({"ffn_scales": (1, 4)}, "ffn_scales must be odd, not "),
        ({"token_mixer": "sra", "heads": (1, 5, 4, 5)}, "stage 1: 5 heads cannot divide 48 channels"),
        ({"token_mixer": "mixing_block", "heads": (8, 2, 4, 5)}, "stage 0: the mixing block needs"),
        ({"local_operator": "d_dwconv", "attention_shares": (0.75, 0.5, 0.5, 0.5)}, "D-DWConv needs at least 8"),
        ({"local_operator": "window_attention", "heads": (1, 2, 4, 5), "attention_shares": (0.5, 0.5, 0.5, 0.25)},
         None),
        ({"local_operator": "window_attention", "heads": (9, 2, 4, 5), "attention_shares": (0.75, 0.5, 0.5, 0.5)},
         "stage 0: 9 heads cannot divide the 6 channels of window attention"),
        ({"layer_scale_init": "small"}, "layer_scale_init must be a number from "),
    ],
)  # fmt: skip
def test_an_alternative_that_cannot_be_is_named(settings: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert transxnet.create_model("transxnet_nano", **settings).config.local_operator == "window_attention"
        return
    with pytest.raises(ConfigError, match=message):
        transxnet.create_model("transxnet_nano", **settings)


def test_a_base_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="bases are tiny and nano, not 'base'"):
        ROWS["table6/dwconv"].config("base")
    with pytest.raises(ConfigError, match="did you mean transxnet_nano_table6_dwconv"):
        transxnet.create_model("transxnet_nano_table6_dwcnv")
