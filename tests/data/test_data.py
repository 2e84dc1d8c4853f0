"""Data sets: sources of images and classes, and batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from helpers.image_files import DESCRIBED, bad_images
from transxnet import DataError
from transxnet.data.loader import BadImages, LabelledImages, make_loader
from transxnet.data.sampling import AddressSampler
from transxnet.data.sources import FolderSource, LabelledData, imagenet_synsets, open_data, open_evaluation
from transxnet.data.transforms import Augmentation, evaluation_transform, training_transform

Fill = Callable[[Sequence[str]], Path]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """``fill(names)`` writes images with these names to a folder, and returns it."""

    def make(names: Sequence[str]) -> Path:
        for index, name in enumerate(names):
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 36), (index * 7 % 256, index * 31 % 256, 99)).save(path)
        return tmp_path / "data"

    return make


def names_of(data: LabelledData) -> tuple[list[str], list[str]]:
    parts = []
    for source in (data.train, data.validation):
        assert isinstance(source, FolderSource)
        parts.append([f"{path.parent.name}/{path.name}" for path in source.paths])
    return parts[0], parts[1]


def test_the_split_of_the_digits_is_fixed() -> None:
    first, second = open_data("digits", seed=0), open_data("digits", seed=1)
    assert (len(first.train.targets), len(first.validation.targets)) == (1437, 360)
    assert list(first.validation.targets) == list(second.validation.targets)
    counts = np.bincount(first.validation.targets)
    assert counts.min() >= 34 and counts.max() <= 37  # stratified
    assert first.train.load(0).size == (32, 32)


@pytest.mark.parametrize("part", ["val", "validation"])
def test_existing_parts_are_used(fill: Fill, part: str) -> None:
    root = fill(["train/b10/1.png", "train/b9/1.png", "train/b9/2.png", f"{part}/b9/3.png"])
    data = open_data(str(root))
    assert data.train.class_names == ("b9", "b10")
    assert names_of(data) == (["b9/1.png", "b9/2.png", "b10/1.png"], ["b9/3.png"])
    assert list(data.validation.targets) == [0]


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a_fifth_of_each_class_is_held_out_by_the_seed(fill: Fill, prefix: str) -> None:
    root = fill([f"{prefix}{name}/{i}.png" for name in "ab" for i in range(10)] + [f"{prefix}lone/0.png"])
    splits = [names_of(open_data(str(root), seed)) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    train, validation = splits[0]
    assert sorted(name[0] for name in validation) == ["a", "a", "b", "b"]
    assert "lone/0.png" in train
    assert len(set(train) | set(validation)) == 21


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/1.png"], "one class, 'a'"),
        (["1.png"], "no class folders"),
        (["train/a/1.png", "train/b/1.png", "val/c/1.png"], "lacks: c"),
        (["a/1.png", "b/1.png"], "nothing can be held out"),
    ],
)
def test_unusable_folders_are_named(fill: Fill, files: list[str], message: str) -> None:
    root = fill(files)
    with pytest.raises(DataError, match=message) as caught:
        open_data(str(root))
    if "held out" not in message:
        assert str(root) in str(caught.value)


def test_empty_class_folders(fill: Fill) -> None:
    root = fill(["train/a/1.png", "train/b/1.png", "val/a/1.png"])
    (root / "val/b").mkdir()
    assert len(open_data(str(root)).validation.targets) == 1  # b has no validation images, which is allowed
    (root / "train/empty").mkdir()
    with pytest.raises(DataError, match="no images in class folder .*train/empty"):
        open_data(str(root))
    for path in root.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="have no images"):
        open_data(str(root))


def test_imagenet_v2_folders_are_sorted_as_numbers(fill: Fill) -> None:
    root = fill([f"{index}/x.png" for index in range(0, 1000, 25)])
    source = open_evaluation(str(root), None, 1000)
    assert isinstance(source, FolderSource)
    assert all(int(path.parent.name) == target for path, target in zip(source.paths, source.targets, strict=True))
    assert open_evaluation(str(root), imagenet_synsets(), 1000).targets == source.targets


def test_some_imagenet_folders_are_matched_by_wordnet_id(fill: Fill) -> None:
    root = fill(["val/n02124075/a.png", "val/n01440764/b.png"])
    source = open_evaluation(str(root), None, 1000)
    assert sorted(source.targets) == [0, 285]


def test_folders_are_matched_to_the_networks_class_names(fill: Fill) -> None:
    root = fill(["cat/a.png"])
    assert list(open_evaluation(str(root), ["ant", "bee", "cat"], 3).targets) == [2]
    with pytest.raises(DataError, match="not among the network's 2 classes: cat; its classes are ant, bee"):
        open_evaluation(str(root), ["ant", "bee"], 2)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_augmentation_depends_on_the_address_alone(workers: int) -> None:
    source = open_data("digits").validation
    transform = training_transform(DESCRIBED, Augmentation())
    dataset = LabelledImages(source, transform, seed=3)
    alone = list(make_loader(dataset, 90, train=True, seed=3))
    torch.rand(5)  # other random numbers have no effect
    together = list(make_loader(dataset, 90, train=True, seed=3, workers=workers))
    assert len(alone) == len(together) == 4
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.indices, other.indices)
    assert not torch.equal(dataset[0, 5].content[0], dataset[1, 5].content[0])
    other_seed = LabelledImages(source, transform, seed=4)
    assert not torch.equal(other_seed[0, 5].content[0], dataset[0, 5].content[0])


def test_epochs_of_some_steps_repeat_the_images() -> None:
    sampler = AddressSampler(10, 2, seed=3, train=True, epoch_steps=3)
    addresses = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        addresses += list(sampler)
        assert len(sampler) == 6
    assert [number for number, _ in addresses] == [0] * 10 + [1] * 10 + [2] * 10
    for number in range(3):
        assert sorted(index for pass_, index in addresses if pass_ == number) == list(range(10))


def test_a_batch_has_images_of_one_group() -> None:
    groups = [index % 3 == 0 for index in range(23)]
    sampler = AddressSampler(23, 4, seed=3, train=True, groups=groups)
    batches = torch.tensor([index for _, index in sampler]).view(-1, 4).tolist()
    assert len(batches) == 5 and len({index for batch in batches for index in batch}) == 20
    mixed = [batch for batch in batches if len({groups[index] for index in batch}) > 1]
    assert not mixed
    sampler.set_epoch(1)
    assert batches != torch.tensor([index for _, index in sampler]).view(-1, 4).tolist()


def test_augmentation_restores_the_global_generators() -> None:
    dataset = LabelledImages(open_data("digits").validation, training_transform(DESCRIBED, Augmentation()))
    torch.manual_seed(0)
    np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0)
    np.random.seed(0)
    dataset[0, 0]
    assert (torch.rand(1), np.random.rand()) == expected


def test_bad_images_are_replaced_in_training_and_skipped_in_evaluation(fill: Fill) -> None:
    root = fill([f"a/{i}.png" for i in range(10)])
    reasons = bad_images(root / "a")
    source = FolderSource(("a",), sorted((root / "a").iterdir()), [0] * 15)
    transform = evaluation_transform(DESCRIBED)
    batches = list(make_loader(LabelledImages(source, transform), 4))
    assert sum(len(batch.targets) for batch in batches) == 10
    assert {Path(name).name for batch in batches for name, _ in batch.bad} == set(reasons)
    batches = list(make_loader(LabelledImages(source, transform, replace_bad=True), 4, train=True))
    assert [len(batch.targets) for batch in batches] == [4, 4, 4]


def test_too_many_bad_images_raise_an_error_with_their_names() -> None:
    bad = BadImages(total=200, share=0.01)
    bad.add([("a.jpg", "cut"), ("b.jpg", "empty")])
    bad.add([("a.jpg", "cut")])  # again in the next epoch
    with pytest.raises(DataError, match=r"3 of 200 .* --max-bad 0.01 .*a.jpg \(cut\); b.jpg \(empty\); c.jpg"):
        bad.add([("c.jpg", "text")])


def test_evaluation_resizes_crops_and_normalises_as_described() -> None:
    transform = evaluation_transform({"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic"})
    image = transform(Image.new("RGB", (600, 300), (124, 116, 104)))
    assert image.shape == (3, 224, 224)
    assert image.abs().max() < 0.02  # ImageNet's mean colour


def test_very_long_images_are_cropped_before_they_are_resized() -> None:
    transform = evaluation_transform({"input_size": (3, 224, 224), "crop_pct": 0.9, "interpolation": "bicubic"})
    whole, sizes = vars(transform)["transform"], []

    def record(image: Image.Image) -> torch.Tensor:
        sizes.append(image.size)
        resized: torch.Tensor = whole(image)
        return resized

    vars(transform)["transform"] = record
    for size in ((2, 20_000), (20_000, 2), (3, 192), (640, 480)):
        assert transform(Image.new("RGB", size)).shape == (3, 224, 224)
    assert sizes == [(2, 128), (128, 2), (3, 192), (640, 480)]


@pytest.mark.parametrize("policy", ["rand-m10-n9-inc1", "v0"])
def test_augmentation_never_posterizes_to_no_bits(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def posterize(image: Image.Image, bits: int) -> Image.Image:
        assert 1 <= bits <= 8  # Pillow raises an error otherwise, from version 13 on
        return image

    monkeypatch.setattr(ImageOps, "posterize", posterize)
    transform = training_transform({"input_size": (3, 32, 32)}, Augmentation(auto_augment=policy))
    random.seed(0)
    np.random.seed(0)
    for _ in range(40):
        transform(Image.new("RGB", (40, 40), "white"))
