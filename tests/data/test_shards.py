"""Data sets in our shards, and the check of data sets."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import resource
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers.commands import run
from helpers.image_files import DESCRIBED, bad_images
from helpers.packed_files import SMALL, assert_same, fill, sharded
from transxnet import DataError
from transxnet.data.images.reading import BadImageError
from transxnet.data.loader import LabelledImages, make_loader
from transxnet.data.packed.manifest import read_manifest
from transxnet.data.packed.sharding import plan_shards, write_shards
from transxnet.data.sources import FolderSource, open_data, open_evaluation
from transxnet.data.transforms import Augmentation, training_transform


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders, with names that other readers of shards could confuse."""
    odd = ["b/10.a.png", "b/10.b.png", "b/deep/1.png", "b/deep_1.png", "b/1.jpg", "b/1.png", "b/ä [x].png"]
    return fill(tmp_path / "photos", [*(f"{name}/{i}.png" for name in ("c9", "c10") for i in range(12)), *odd])


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Training and validation images, the latter with fewer classes."""
    return fill(tmp_path / "given", [*(f"train/{i % 3}x/{i}.png" for i in range(20)), "val/2x/a.png", "val/0x/b.png"])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.mark.parametrize("layout", ["photos", "given"])
@pytest.mark.parametrize("seed", [0, 3])
def test_shards_match_the_folder(layout: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(layout)
    out = sharded(folder, tmp_path / "out")
    assert len(list(out.glob("train-*.tar"))) > 2
    assert max(path.stat().st_size for path in out.glob("*.tar")) <= SMALL
    expected, found = open_data(str(folder), seed), open_data(str(out), seed)
    assert_same(expected.train, found.train)
    assert_same(expected.validation, found.validation)


def test_evaluation_matches_classes_as_for_folders(given: Path, tmp_path: Path) -> None:
    out = sharded(given, tmp_path / "out")
    names = ["2x", "other", "0x"]
    source = open_evaluation(str(out), names, 3)
    assert_same(open_evaluation(str(given), names, 3), source)
    assert list(source.targets) == [2, 0]
    with pytest.raises(DataError, match="not among the network's 2 classes: 2x"):
        open_evaluation(str(out), ["0x", "1x"], 2)


@pytest.mark.parametrize("names", [["val/a/1.png", "val/b/2.png", "val/b/10.png"], ["a/1.png", "b/2.png"]])
def test_validation_images_alone(tmp_path: Path, names: list[str]) -> None:
    folder = fill(tmp_path / "folder", names)
    out = sharded(folder, tmp_path / "out")
    assert_same(open_evaluation(str(folder), None, 2), open_evaluation(str(out), None, 2))
    messages = []
    for path in (folder, out):
        with pytest.raises(DataError, match="no training images|nothing can be held out") as caught:
            open_data(str(path))
        messages.append(str(caught.value).replace(str(path), ""))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_match_the_folder(photos: Path, tmp_path: Path, workers: int) -> None:
    sources = open_data(str(photos)).train, open_data(str(sharded(photos, tmp_path / "out"))).train
    transform = training_transform(DESCRIBED, Augmentation())
    one, other = (LabelledImages(source, transform, seed=1) for source in sources)
    batches = (
        list(make_loader(one, 8, train=True, seed=1)),
        list(make_loader(other, 8, train=True, seed=1, workers=workers)),
    )
    for expected, found in zip(*batches, strict=True):
        assert torch.equal(expected.images, found.images) and torch.equal(expected.targets, found.targets)


def test_other_readers_find_held_out_images_and_classes(photos: Path, tmp_path: Path) -> None:
    out = sharded(photos, tmp_path / "out", seed=2)
    data = open_data(str(photos), 2)
    for part, source in (("train", data.train), ("val", data.validation)):
        assert isinstance(source, FolderSource)
        samples: dict[str, dict[str, bytes]] = {}
        for path in sorted(out.glob(f"{part}-*.tar")):
            with tarfile.open(path) as shard:
                for member in shard:
                    key, _, ending = member.name.partition(".")
                    content = shard.extractfile(member)
                    assert content and ending not in samples.setdefault(key, {})
                    samples[key][ending] = content.read()
        found = sorted((int(sample.pop("cls")), *sample.values()) for sample in samples.values())
        files = [path.read_bytes() for path in source.paths]
        assert found == sorted(zip(source.targets, files, strict=True))


def kill(count: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop(count: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [kill, stop])
@pytest.mark.parametrize("after", [1, 20])
def test_an_interrupted_run_resumes_byte_for_byte(
    photos: Path, tmp_path: Path, end: Callable[[int], None], after: int
) -> None:
    expected = contents(sharded(photos, tmp_path / "whole"))
    out = tmp_path / "out"
    plan = plan_shards(str(photos), SMALL)
    steps = iter(range(after))

    def advance(count: int) -> None:
        if next(steps, None) is None:
            end(count)

    if end is kill:
        process = multiprocessing.get_context("fork").Process(target=write_shards, args=(plan, out, advance))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert list(out.glob(".transxnet-*.tmp.tar"))  # unfinished files have no final name
    else:
        with pytest.raises(KeyboardInterrupt):
            write_shards(plan, out, advance)
        assert not list(out.glob(".*"))
    manifest = read_manifest(out)
    assert manifest and not manifest.complete
    complete = {name: identities(out)[name] for record in manifest.shards for name in (record.file, record.index)}
    assert bool(complete) == (after > 5)
    with pytest.raises(DataError, match="run the same `transxnet data shard` again"):
        open_data(str(out))
    assert write_shards(plan, out)[1] == len(manifest.shards)
    assert contents(out) == expected
    assert complete.items() <= identities(out).items()


def test_a_second_run_changes_nothing(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ("data", "shard", photos, out, "--shard-mb", SMALL / 1e6)
    assert run(*command) == 0
    before = identities(out)
    assert run(*command, "--json") == 0
    printed = capsys.readouterr().out
    result = json.loads(printed[printed.index("{") :])
    assert result["kept"] == sum(part["shards"] for part in result["parts"].values()) == len(list(out.glob("*.tar")))
    assert (result["parts"]["train"]["images"], result["parts"]["val"]["images"]) == (26, 5)
    assert identities(out) == before
    assert run("data", "check", out, "--json") == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert sum(counts["images"] for counts in parts["val"].values()) == 5  # parts by file names


def test_a_damaged_shard_is_written_again(photos: Path, tmp_path: Path) -> None:
    out = sharded(photos, tmp_path / "out")
    expected = contents(out)
    os.truncate(out / "train-000001.tar", 5000)
    (out / "val-000000.index.npy").unlink()
    sharded(photos, out)
    assert contents(out) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder, out: (folder / "c9/new.png").write_bytes(b"1"), "images have changed"),
        (lambda folder, out: (folder / "c9/1.png").write_bytes(b"1"), "images have changed"),
        (lambda folder, out: (out / "manifest.json").write_text("{}"), "contains other files"),
        (lambda folder, out: (out / "manifest.json").write_text("{"), "manifest.json cannot be read"),
    ],
)
def test_shards_of_other_images_are_not_mixed(
    photos: Path, tmp_path: Path, change: Callable[[Path, Path], None], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = sharded(photos, tmp_path / "out")
    change(photos, out)
    before = contents(out)
    assert run("data", "shard", photos, out, "--shard-mb", SMALL / 1e6) == 2
    printed = capsys.readouterr().err
    assert message in printed and len(printed.splitlines()) == 1
    assert contents(out) == before


def test_other_settings_and_an_output_inside_the_folder_are_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = sharded(photos, tmp_path / "out")
    assert run("data", "shard", photos, out) == 2
    assert "--seed 0 and --shard-mb 0.03" in capsys.readouterr().err
    assert run("data", "shard", photos, photos / "out") == 2
    assert "read as data" in capsys.readouterr().err
    assert run("data", "shard", out, tmp_path / "again") == 2
    assert "packed already" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_leaves_no_partial_file(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, limits[1]))
    try:
        assert run("data", "shard", photos, tmp_path / "out") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    printed = capsys.readouterr().err
    assert "cannot be written (File too large)" in printed and len(printed.splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]


def test_a_file_that_cannot_be_opened_is_named_and_others_keep_their_order(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "c9/5.png").unlink()
    (photos / "c9/5.png").symlink_to("nowhere.png")
    for _ in range(2):
        assert run("data", "shard", photos, tmp_path / "out", "--shard-mb", SMALL / 1e6) == 1
        assert f"left out {photos}/c9/5.png: broken link" in capsys.readouterr().err
    (photos / "c9/5.png").unlink()
    whole = open_evaluation(str(photos), None, 3)
    assert_same(whole, open_evaluation(str(tmp_path / "out"), None, 3))


def test_a_source_is_pickled_without_open_files(photos: Path, tmp_path: Path) -> None:
    source = open_data(str(sharded(photos, tmp_path / "out"))).train
    source.load(0)
    assert_same(source, pickle.loads(pickle.dumps(source)))


def test_the_check_finds_the_same_broken_images_in_a_folder_and_in_shards(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = bad_images(given / "train/1x")
    out = tmp_path / "out"
    assert run("data", "shard", given, out) == 1
    for path, left_out, workers in ((given, set(), 0), (out, {"link.jpg"}, 1)):
        capsys.readouterr()
        assert run("data", "check", path, "--workers", workers, "--json") == 1
        found = json.loads(capsys.readouterr().out)
        broken = {name.rpartition("/")[2]: reason for name, reason in found["broken"].items()}
        assert set(broken) == set(reasons) - left_out
        assert all(reasons[name] in reason for name, reason in broken.items())
        assert found["parts"]["train"]["1x"] == {"images": 7 + len(broken), "broken": len(broken)}
        assert found["parts"]["val"]["2x"] == {"images": 1, "broken": 0}


def test_the_printed_check(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = sharded(given, tmp_path / "out")
    assert run("data", "check", out) == 0
    assert "22 images, nothing broken" in capsys.readouterr().out
    shard = out / "train-000001.tar"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1  # affects no image
    shard.write_bytes(content)
    assert run("data", "check", out) == 1
    printed = capsys.readouterr().out
    assert f"broken {shard}: train-000001.tar was changed after writing" in printed and "1 broken" in printed


def test_a_truncated_shard_is_named(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = sharded(given, tmp_path / "out")
    opened = open_data(str(out)).train
    os.truncate(out / "train-000001.tar", 1000)
    with pytest.raises(DataError, match="out: train-000001.tar has 1,000 bytes, but"):
        open_data(str(out))
    (out / "val-000000.tar").unlink()
    assert run("data", "check", out, "--json") == 1
    broken = json.loads(capsys.readouterr().out)["broken"]
    assert "1,000 bytes" in broken[str(out / "train-000001.tar")]
    assert "No such file" in broken[str(out / "val-000000.tar")]
    lost = [name for name in broken if "train-000001.tar:" in name]
    assert len(lost) > 2 and sum("val-000000.tar:" in name for name in broken) == 2
    (index, *_) = (index for index in range(20) if opened.name(index) == lost[0])
    with pytest.raises(BadImageError, match=r"train-000001.tar:.*: the shard ends before the image"):
        opened.load(index)


@pytest.mark.parametrize("command", ["shard", "check"])
def test_help_has_examples_and_fits_a_terminal(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("data", command, "--help") == 0
    text = capsys.readouterr().out
    assert "examples:" in text and f"usage: transxnet data {command}" in text
    assert max(map(len, text.splitlines())) <= 100
