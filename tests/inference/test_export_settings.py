"""Every setting of the configuration is exported, or refused in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

import transxnet
from helpers.exported_files import description
from helpers.networks import images, lively, lively_dense
from transxnet import ConfigError, TransXNetConfig
from transxnet.config import _CHOICES
from transxnet.inference.formats import write_openvino
from transxnet.inference.tracing import NOT_EXPORTED, outputs_of, trace
from transxnet.layers.registry import REGISTRIES

# Networks of one stage that have, together, every setting at another value than its default, and every choice of
# those that have choices. A new setting fails the first test until it is here.
SMALL: dict[str, Any] = {"depths": (1,), "channels": (16,), "heads": (1,), "reductions": (8,), "expansions": (3,),
                         "attention_groups": (2,), "img_size": 32, "num_classes": 5}  # fmt: skip
EXPORTED: dict[str, dict[str, Any]] = {
    "sizes": {
        "depths": (2,), "channels": (24,), "heads": (2,), "reductions": (2,), "expansions": (1,), "num_classes": 3,
        "attention_groups": (1,), "kernel_sizes": (3,), "attention_shares": (0.25,), "in_chans": 1,
        "img_size": (64, 33),
        "ffn_scales": (1, 5), "drop_rate": 0.2, "ffn_drop_rate": 0.2, "drop_path_rate": 0.2, "layer_scale_init": None,
        "global_pool": "catavgmax", "position_bias_resize": "geometric",
    },
    "patches": {
        "stem": "patches", "spatial_reduction": "nsr", "enhancer": "conv", "position_encoding": "none",
        "local_operator": "dwconv", "ffn": "pointwise", "global_pool": "max",
    },
    "geometric alone": {"position_bias_resize": "geometric", "local_operator": "d_dwconv", "ffn": "vanilla"},
    "without a classifier": {
        "token_mixer": "sra", "ffn": "vanilla", "num_classes": 0, "global_pool": "", "layer_scale_init": 0.1,
    },
    "separable": {"token_mixer": "sep_conv", "global_pool": "avgmax"},
    "a kernel of each image": {"local_operator": "dyconv"},
}  # fmt: skip
OUTSIDE = ("token_mixer_settings", "local_operator_settings", "ffn_settings")  # of parts from outside the package


def network(settings: dict[str, Any]) -> transxnet.TransXNet:
    return lively(transxnet.TransXNet(TransXNetConfig(**SMALL | settings))).eval()


def test_every_setting_is_among_the_exported_networks() -> None:
    default = TransXNetConfig(**SMALL)
    choices = {name: set(get_args(kind)) for name, kind in _CHOICES.items()}
    choices |= {one.field: {name for name, part in one._parts.items() if part.settings is None} for one in REGISTRIES}
    for field in dataclasses.fields(TransXNetConfig):
        if field.name in OUTSIDE:
            continue
        values = [getattr(TransXNetConfig(**SMALL | settings), field.name) for settings in EXPORTED.values()]
        assert any(value != getattr(default, field.name) for value in values), field.name
        own = {name for name in choices.get(field.name, ()) if not name.startswith("test")}
        assert own <= {*values, *NOT_EXPORTED.get(field.name, ())}, field.name


@pytest.mark.parametrize(
    "name", [name if name == "geometric alone" else pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED]
)
def test_a_traced_network_gives_the_networks_outputs(name: str) -> None:
    model = network(EXPORTED[name])
    program = trace(model).module()
    for batch, height, width in ((1, 40, 33), (3, 97, 70)):
        x = images(batch, model.in_chans, height, width)
        with torch.inference_mode():
            wanted, (found,) = model(x), program(x)
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in NOT_EXPORTED.items() for part in parts])
def test_parts_with_windows_are_refused(name: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"networks with {name}='{part}' cannot be exported"):
        transxnet.export(network({name: part}), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


class Resizing(nn.Module):
    """Every fourth pixel at twice the size, as in a pyramid, and the image at 1/32, as a position bias is resized."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        coarse, fine, coarsest = (x[:, :, ::step, ::step] for step in (4, 2, 32))
        grown = F.interpolate(coarse, size=fine.shape[2:], mode="nearest")
        return grown, F.interpolate(x, size=coarsest.shape[2:], mode="bicubic")


def test_openvino_resizes_as_pytorch_does(tmp_path: Path) -> None:
    sides = {0: Dim("batch", min=1), 2: Dim("height", min=33), 3: Dim("width", min=33)}
    program = torch.export.export(Resizing(), (images(2, 3, 96, 64),), dynamic_shapes=(sides,))
    about = description("openvino", task="features", outputs=("stage1", "stage2"), strides=(2, 32), num_classes=0,
                        class_names=())  # fmt: skip
    write_openvino(program, tmp_path / "a.xml", about)
    runtime = transxnet.load_exported(tmp_path / "a.xml")
    for height, width in ((33, 100), (32, 224)):  # to one row, for which OpenVINO has a mode of its own
        x = images(1, 3, height, width)
        for found, wanted in zip(runtime.run(x.numpy()), Resizing()(x), strict=True):
            np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_geometric_position_bias_is_exported(runtime: Any, tmp_path: Path) -> None:
    """At 32 x 224 pixels the keys are one row, to which OpenVINO would resize otherwise than PyTorch."""
    path = tmp_path / f"small{'.onnx' if runtime == 'onnx' else '.xml'}"
    exported = transxnet.export(network({"position_bias_resize": "geometric"}), path)
    assert exported.passed and len(exported.checks) == 5


@pytest.mark.slow
def test_a_segmenter_of_the_scenes_recipe_is_exported(tmp_path: Path) -> None:
    model = lively_dense("semantic_fpn", position_bias_resize="geometric", layer_scale_init=0.1)
    exported = transxnet.export(model, tmp_path / "scenes.onnx", check=False)
    x = images(1, 3, 70, 96)
    with torch.inference_mode():
        wanted = outputs_of(model, x)[0].numpy()
    (scores,) = transxnet.load_exported(exported.path).run(x.numpy())
    assert np.abs(scores - wanted).max() <= 1e-4 * np.abs(wanted).max()
