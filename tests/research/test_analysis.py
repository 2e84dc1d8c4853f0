"""Effective receptive fields, Grad-CAM and the paper's numbers: formulas and commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn import functional as F

from helpers.commands import error_line, run
from helpers.networks import images, nano
from transxnet.data.examples import open_examples, photographs
from transxnet.data.images.reading import read_image
from transxnet.research.accuracy import published, table2
from transxnet.research.erf import Settings, measure, state_path
from transxnet.research.gradcam import grad_cam
from transxnet.research.networks import open_networks, stage_maps, stage_names
from transxnet.research.receptive_field import contribution, middle, square_area, square_side


def test_a_field_is_the_gradient_of_the_centre() -> None:
    model, batch = nano(), images(2, 3, 64, 64)

    def centre(image: Tensor) -> Tensor:
        return stage_maps(model, image, [2])[0][0, :, 4, 4]  # 8 x 8 positions

    expected = torch.zeros(64, 64)
    for image in batch.split(1):
        rows = jacobian(centre, image)[:, 0]  # (C', C, H, W)
        positive = centre(image).detach() > 0
        expected += rows[positive].sum(0).relu().sum(0)
    (found,) = contribution(lambda given: stage_maps(model, given, [2]), batch)
    assert torch.allclose(found, expected.double(), rtol=1e-3, atol=1e-6 * float(expected.max()))


def test_the_field_of_one_convolution_is_its_support() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 5, padding=2)
    (field,) = contribution(lambda given: [conv(given)], images(1, 3, 17, 13), "abs")
    rows, columns = field.nonzero(as_tuple=True)
    assert (rows.unique().tolist(), columns.unique().tolist()) == ([6, 7, 8, 9, 10], [4, 5, 6, 7, 8])
    assert len(rows) == 25
    assert square_side(field.numpy(), 1) == 5


def test_the_field_of_a_global_mean_is_flat() -> None:
    (field,) = contribution(lambda given: [given.mean((2, 3), keepdim=True)], images(1, 3, 20, 20).abs())
    assert torch.allclose(field, torch.full((20, 20), 3 / 400, dtype=torch.float64))
    assert square_side(field.numpy(), 0.2) == 9  # 81 of 400 pixels
    assert (square_side(field.numpy(), 0.99), square_area(field.numpy(), 20)) == (20, 1)


def test_squares_are_centred_on_the_field() -> None:
    convs = nn.Sequential(*(nn.Conv2d(3, 3, 3, 2, padding=1, bias=False) for _ in range(3)))
    for parameter in convs.parameters():
        nn.init.ones_(parameter)
    (field,) = contribution(lambda given: [convs(given)], images(1, 3, 40, 40), "abs")
    assert middle(field.numpy()) == (16, 16)  # index 2 of 5
    assert square_side(field.numpy(), 1) == 15


@pytest.mark.parametrize("name", ["transxnet_nano", "test_resnet", "test_vit", "swin_tiny_patch4_window7_224"])
def test_stages_of_all_networks_are_channels_first(name: str) -> None:
    (network,) = open_networks([name], image_size=64)
    names = stage_names(network.model)
    last = len(names)
    first, final = stage_maps(network.model, images(1, 3, 64, 64), [1, last])
    assert first.ndim == final.ndim == 4 and first.shape[2] == first.shape[3] >= final.shape[2]
    assert final.shape[1] == network.model.num_features
    assert names[last] in dict(network.model.named_modules())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five images, one of them damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    (folder / "1.png").write_bytes(b"torn")
    return folder


def test_an_interrupted_field_resumes_to_the_bit(photos: Path, tmp_path: Path) -> None:
    (network,) = open_networks(["transxnet_nano"], image_size=32)
    examples = open_examples([str(photos)], 10)
    settings = Settings((1, 4), batch_size=2, save_seconds=0)
    whole, bad = measure(network, examples, settings)
    assert list(bad) == [str(photos / "1.png")] and whole[0].images == 4
    state = state_path(tmp_path / "erf.png", network, examples, settings)
    killed = tmp_path / "killed.npz"

    def interrupt(count: int) -> None:
        if count == 2:
            shutil.copy(state, killed)  # the state of a killed process
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(network, examples, settings, state=state, advance=interrupt)
    for left in (state, killed):
        counts: list[int] = []
        again, bad_again = measure(network, examples, settings, state=left, advance=counts.append)
        assert counts == [2, 2, 1] and bad_again == bad
        assert all(np.array_equal(one.values, other.values) for one, other in zip(whole, again, strict=True))
    assert state_path(tmp_path / "erf.png", network, examples[1:], settings) != state


def test_erf_draws_networks_side_by_side(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("erf", photos, "--model", "transxnet_nano", "test_resnet", "--image-size", 32, "--out", tmp_path / "f")
    assert run(*command, "--stage", "1", "last", "--json") == 1  # a damaged image
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert "1.png: not an image" in printed.err and list(result["bad_images"]) == [str(photos / "1.png")]
    assert [(f["network"], f["trained"], f["images"]) for f in result["fields"]] == [
        ("transxnet_nano", False, 4), ("transxnet_nano", False, 4), ("test_resnet", False, 4), ("test_resnet", False, 4)
    ]  # fmt: skip
    assert [square["share"] for square in result["fields"][0]["squares"]] == [0.2, 0.3, 0.5, 0.99]
    assert (tmp_path / "f.pdf").read_bytes()[:4] == b"%PDF"
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.pdf", "f.png", "photos"]  # the state is removed
    assert run(*command[:-1], tmp_path / "g.svg") == 1
    assert "random, seed 0" in capsys.readouterr().out and "<svg" in (tmp_path / "g.svg").read_text()


class _Small(nn.Module):
    """A classifier whose layer returns its map in one of three orders."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.conv, self.layer, self.head = nn.Conv2d(3, 6, 3, 4), nn.Identity(), nn.Linear(6, 5)
        self.order = order
        self.num_prefix_tokens = 2 if order == "tokens" else 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.order == "nchw":
            return self.head(self.layer(x).sigmoid().mean((2, 3)))  # type: ignore[no-any-return]
        x = x.permute(0, 2, 3, 1)
        if self.order == "nhwc":
            return self.head(self.layer(x).sigmoid().mean((1, 2)))  # type: ignore[no-any-return]
        x = self.layer(torch.cat((x.new_ones(1, 2, 6), x.flatten(1, 2)), dim=1))
        return self.head(x[:, 2:].sigmoid().mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("order", ["nchw", "nhwc", "tokens"])
def test_grad_cam_matches_its_formula_in_every_order(order: str) -> None:
    torch.manual_seed(0)
    model, image = _Small(order).eval(), images(1, 3, 19, 27)  # a map of 5 x 7
    maps = model.conv(image).detach().requires_grad_()
    score = model.head(maps.sigmoid().mean((2, 3)))[0, 3]
    (gradient,) = torch.autograd.grad(score, maps)
    expected = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu()[0].detach().numpy()
    found = grad_cam(model, "layer", image, 3)
    assert found.shape == (19, 27) and found.min() >= 0 and found.max() <= 1
    resized = F.interpolate(torch.from_numpy(expected)[None, None], (19, 27), mode="bilinear")[0, 0].numpy()
    resized = resized - resized.min()
    np.testing.assert_allclose(found, resized / resized.max(), atol=1e-4)


def test_gradcam_skips_an_unreadable_image_and_exits_with_1(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = ("transxnet_nano", "test_vit", "test_convnext")
    command = ("gradcam", photos, "--model", *networks, "--image-size", 64, "--out", tmp_path / "cam.png")
    assert run(*command, "--class", "Egyptian cat", "--json", "--max-images", 5) == 1
    printed = capsys.readouterr()
    assert "1.png: not an image" in printed.err
    maps = json.loads(printed.out)["maps"]
    assert len(maps) == 4 * 3 and {map_["class_index"] for map_ in maps} == {285}
    assert [map_["layer"] for map_ in maps[:3]] == ["stage 4", "stage 6", "stage 4"]
    with Image.open(tmp_path / "cam.png") as picture:
        assert picture.width > 1000


def test_gradcam_shows_the_most_probable_class_of_embedded_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("gradcam", "digits", "--model", "transxnet_nano", "--image-size", 64, "--max-images", 2)
    assert run(*command, "--stage", "all", "--out", tmp_path / "cam.svg") == 0
    printed = capsys.readouterr().out
    assert printed.count("digit ") == 8 and "stage 1" in printed and "stage 4" in printed
    assert all(min(read_image(path).size) > 200 for path in photographs())


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_accuracy_against_cost(cost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plot", "accuracy", "--cost", cost, "--out", tmp_path / "a.svg", "--json") == 0
    networks = {row["model"]: row for row in json.loads(capsys.readouterr().out)["networks"]}
    assert len(networks) == len(table2()) == 49
    assert networks["TransXNet-T"]["top1"] == 81.6 and networks["Swin-T"]["macs"] == 4.5
    assert (tmp_path / "a.svg").stat().st_size > 10_000
    tiny = published("swin_tiny_patch4_window7_224.ms_in1k")
    assert tiny is not None and tiny.top1 == 81.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["erf", "--model", "transxnet_tini"], "did you mean transxnet_tiny?"),
        (["erf", "--model", "transxnet_nano", "--stage", "5"], "has stages 1 to 4"),
        (["erf", "--out", "field.jpg"], "needs the suffix .pdf, .png, .svg"),
        (["erf", "--max-images", "0"], "--max-images must be a whole number from 1 to 1,000,000, not 0"),
        (
            ["erf", "--model", "transxnet_nano", "--batch-size", "0"],
            "--batch-size must be a whole number from 1 to 65,536, not 0",
        ),
        (
            ["erf", "--model", "transxnet_nano", "--image-size", "8"],
            "--image-size must be a whole number from 32 to 16,384",
        ),
        (["erf", "nowhere.png", "--model", "transxnet_nano"], "none of 1 images can be used"),
        (["erf", "--model", "transxnet_nano", "test_vit", "--stage", "all"], "different numbers of stages"),
        (["erf", "--model", "a", "b", "--checkpoint", "c"], "--model NAME=CHECKPOINT"),
        (["gradcam", "--model", "transxnet_nano=nope.pth"], "nope.pth does not exist"),
        (["gradcam", "--model", "transxnet_nano", "--class", "Egyptian cad"], "did you mean 'Egyptian cat'?"),
        (["gradcam", "--model", "transxnet_nano", "--class", "1000"], "has no class '1000'"),
        (["gradcam", "--model", "transxnet_nano", "--layer", "stages.9"], "there is no layer 'stages.9'"),
        (
            ["gradcam", "--model", "transxnet_nano", "--layer", "head"],
            "layer 'head' returns (1, 1000), which is not a map",
        ),
        (["bench", "--mode", "fast"], "fast"),
        (["bench", "--precision", "fp8"], "fp8"),
        (["bench", "transxnet_nano", "--rounds", "0"], "--rounds must be a whole number from 1 to"),
        (["bench", "nothing_like_it"], "has a network 'nothing_like_it'"),
        (["plot", "speed"], "speed"),
    ],
)
def test_a_mistake_in_an_analysis_is_one_line_and_status_2(
    arguments: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_line(arguments, tmp_path, capsys)
