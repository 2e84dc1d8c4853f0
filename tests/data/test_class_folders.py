"""Folders of images as people bring them: which folders are parts and classes, and what is reported of the rest."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from helpers.commands import run
from helpers.packed_files import encoded, sharded, tar
from helpers.packed_files import fill as fill_folder
from transxnet import DataError
from transxnet.data.description import DataDescription
from transxnet.data.sources import open_data, open_evaluated

Fill = Callable[[Sequence[str]], Path]
CAT_DOG = ("cat", "dog")
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def classes(prefix: str = "", names: Sequence[str] = CAT_DOG, count: int = 3) -> list[str]:
    return [f"{prefix}{name}/{index}.png" for name in names for index in range(count)]


@pytest.fixture
def fill(tmp_path: Path) -> Fill:
    """``fill(names)`` writes images with these names to a folder, and returns it."""
    return lambda names: fill_folder(tmp_path / "data", list(names))


def described(root: Path) -> DataDescription:
    return open_data(str(root)).description()


def counts(description: DataDescription) -> list[dict[str, int]]:
    return [dict(part.counts) for part in description.parts]


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ("Train", "Test"),
        ("train", "Val"),
        ("TRAINING", "VALIDATION"),
        ("training_set", "test_set"),
        ("train", "Testing"),
    ],
)
def test_parts_are_found_in_any_case(fill: Fill, train: str, validation: str) -> None:
    root = fill(classes(f"{train}/") + classes(f"{validation}/", count=2))
    found = described(root)
    assert [part.origin for part in found.parts] == [str(root / train), str(root / validation)]
    assert counts(found) == [{"cat": 3, "dog": 3}, {"cat": 2, "dog": 2}]
    reported = any("is the validation part, since there is no val/" in line for line in found.lines())
    assert reported == validation.lower().startswith("test")


def test_a_test_part_is_left_alone_beside_a_validation_part(fill: Fill) -> None:
    found = described(fill(classes("train/") + classes("Val/") + classes("test/")))
    assert found.parts[1].origin.endswith("Val")
    assert "test/ is not used: Val/ is the validation part" in found.lines()


FOLDERS = {
    "unlabelled test images beside classes": (
        [*classes(), "test/1.png", "test/2.png"],
        CAT_DOG,
        ["images in test/ without a class (left out): 2", "test/ is not taken for a class; if it is one, put"],
    ),
    "a test part beside classes": (
        classes() + classes("test/"),
        CAT_DOG,
        ["test/ is the validation part, since there is no val/"],
    ),
    "test images in one folder": (
        [*classes("train/"), "test/images/1.png", "test/images/2.png"],
        CAT_DOG,
        ["folders in test/ that are not classes (left out): 1 (images)"],
    ),
    "parts inside the classes": (
        [f"{name}/{part}/{part}{i}.png" for name in CAT_DOG for part in ("train", "Val") for i in range(2)],
        CAT_DOG,
        ["the parts are inside the class folders: Val/, train/", "validation: 4 images of 2 classes"],
    ),
    "classes beside a training part": (
        classes("train/") + classes(names=["bird"]),
        CAT_DOG,
        ["folders with images beside train/ (left out): 1 (bird)"],
    ),
    "trains among vehicles": (
        classes(names=["bus", "car", "train"]),
        ("bus", "car", "train"),
        ["train/ is a class, not a part of the data: it has images, no class folders"],
    ),
    "empty validation part": (
        [*classes("train/"), "val/.keep"],
        CAT_DOG,
        ["val/ is not used: it has no class folders and no images"],
    ),
    "underscores": (
        [*classes(names=["__background__", "cat"]), "cat/__1.png", "__MACOSX/cat/1.png"],
        ("__background__", "cat"),
        ["ignored folders: __MACOSX"],
    ),
    "files of other kinds": (
        [*classes(), "cat/1.json", "cat/2.JSON", "cat/.1.png", "dog/@eaDir/1.png", "notes.txt", "dog/.DS_Store"],
        CAT_DOG,
        ["ignored files: 2 .json, 1 .txt, 1 hidden; ignored folders: @eaDir"],
    ),
    "images that are lost": (
        [*classes(), "cat/1.heic", "stray.png"],
        CAT_DOG,
        ["images of a format that cannot be read (left out): 1", "images outside class folders (left out): 1"],
    ),
    "one name in two forms": (
        classes(names=[COMPOSED, DECOMPOSED, "tea"]),
        ("CAFÉ", "tea"),
        ["2 folders named", "in different Unicode forms are one class"],
    ),
}


@pytest.mark.parametrize(("files", "names", "lines"), FOLDERS.values(), ids=FOLDERS)
def test_what_was_taken_and_left_is_reported(
    fill: Fill, files: list[str], names: Sequence[str], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = fill(files)
    found = described(root)
    taken = [unicodedata.normalize("NFC", name).replace(COMPOSED, "CAFÉ") for name in found.parts[0].counts]
    assert taken == list(names)
    for line in lines:
        assert line in "\n".join(found.lines())
    status = run("data", "check", root)
    assert capsys.readouterr().out.startswith("\n".join(found.lines()))
    assert status == (1 if "left out" in "".join(lines) else 0)


def test_training_says_what_the_check_says(fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = fill([*classes("Train/", count=5), *classes("Test/", names=["cat"]), "Train/cat/1.json"])
    assert run("data", "check", root) == 0
    lines = described(root).lines()
    assert len(lines) == 6 and "  without images: dog" in lines  # layout, two parts, this, and two remarks
    assert capsys.readouterr().out.startswith("\n".join(lines))
    assert run("train", "--data", root, "--checkpoint", tmp_path / "missing.pth", "--out", tmp_path / "run") == 2
    assert "\n".join(lines) in capsys.readouterr().out
    assert run("data", "check", root, "--json") == 0
    assert json.loads(capsys.readouterr().out)["data"] == described(root).to_dict()


def test_links_are_followed_once(fill: Fill, tmp_path: Path) -> None:
    fill_folder(tmp_path / "elsewhere", ["1.png", "deep/2.png"])
    root = fill(classes())
    for link, target in (
        ("cat/more", tmp_path / "elsewhere"),
        ("cat/again", tmp_path / "elsewhere"),
        ("dog/up", ".."),
        ("dog/all", "/"),
        ("everything", "."),
        ("bird", "gone"),
        ("cow", tmp_path / "elsewhere"),
    ):
        (root / link).symlink_to(target)
    found = described(root)
    assert {name: sum(part[name] for part in counts(found)) for name in counts(found)[0]} == {
        "cat": 5,
        "cow": 2,
        "dog": 3,
    }
    assert found.findings.counts == {
        "broken links (left out)": 1,
        "links to folders that were read already or contain the link (not followed)": 4,
    }
    assert any(f"{root / 'cat/again'} -> {tmp_path / 'elsewhere'}" in line for line in found.lines())


def test_a_folder_around_the_data_is_named(fill: Fill) -> None:
    root = fill(classes("photos/"))
    with pytest.raises(DataError, match=r"has one class, 'photos'.*\(give .*/photos, if its folders are the classes"):
        open_data(str(root))


def test_a_class_of_unreadable_formats_is_named(fill: Fill) -> None:
    root = fill([*classes(), "bird/1.txt", "bird/2.txt"])
    with pytest.raises(DataError, match=r"no images in class folder .*/bird \(it has 2 .txt\)"):
        open_data(str(root))


@pytest.mark.parametrize("pack", [lambda root, _: root, sharded], ids=["folder", "shards"])
def test_names_match_in_any_unicode_form(fill: Fill, tmp_path: Path, pack: Callable[[Path, Path], Path]) -> None:
    root = pack(fill(classes("train/", [DECOMPOSED, "tea"]) + classes("val/", [COMPOSED, "TEA"], 2)), tmp_path / "out")
    data = open_data(str(root))
    assert counts(data.description()) == [{DECOMPOSED: 3, "tea": 3}, {DECOMPOSED: 2, "tea": 2}]
    for name in (COMPOSED, DECOMPOSED):
        source, found = open_evaluated(str(root), ["ant", name, "Tea"], 3)
        assert sorted(source.targets) == [1, 1, 2, 2] and list(source.class_names) == ["ant", name, "Tea"]
        assert found.lines()[-1].lower().endswith("read as the classes of another case: tea as tea")


def test_names_that_differ_in_case_alone_stay_apart(fill: Fill) -> None:
    root = fill(classes("train/", ["a", "A"]) + classes("val/", ["A", "a"], 1))
    assert counts(described(root)) == [{"A": 3, "a": 3}, {"A": 1, "a": 1}]


def test_tar_files_follow_the_same_rules(tmp_path: Path) -> None:
    members = {f"{name}/{index}.png": encoded(index) for name in (COMPOSED, "tea") for index in range(3)}
    tar(tmp_path / "Train-0.TAR", {**members, "._1.png": b"\0", "__MACOSX/tea/._2.png": b"\0", "@eaDir/1.png": b"\0"})
    tar(tmp_path / "test-0.tar", {f"{DECOMPOSED}/1.png": encoded(1)})
    (tmp_path / "@eaDir").mkdir()
    found = described(tmp_path)
    assert counts(found) == [{COMPOSED: 3, "tea": 3}, {COMPOSED: 1, "tea": 0}]
    assert {"the part test is the validation part", "ignored 3 hidden files in the tar files"} <= {
        line.partition(",")[0] for line in found.findings.lines()
    }


def test_evaluation_says_which_part_it_took(fill: Fill) -> None:
    root = fill(classes("Train/") + classes("Test/", count=1))
    assert open_evaluated(str(root), CAT_DOG, 2)[1].parts[0].origin == str(root / "Test")
    assert len(open_evaluated(str(root / "Train"), CAT_DOG, 2)[0].targets) == 6
    source, found = open_evaluated(str(fill(classes("alone/train/")) / "alone"), CAT_DOG, 2)
    assert len(source.targets) == 6 and "train/ is evaluated: there is no val/" in found.lines()


def test_a_network_knows_a_class_named_after_a_part(fill: Fill) -> None:
    root = fill([*classes(), "test/1.png"])
    source, _ = open_evaluated(str(root), [*CAT_DOG, "test"], 3)
    assert sorted(source.targets) == [0, 0, 0, 1, 1, 1, 2]


@pytest.mark.parametrize(
    "names",
    [["①", "②"], ["m2", "m10", "m²"], ["9", "10²5"], ["٣", "٢٠"], ["001", "01", "1"], ["𝟘1", "½"]],
)
def test_unusual_digits_are_sorted(fill: Fill, names: list[str]) -> None:
    root = fill(classes(names=names))
    assert list(open_data(str(root)).train.class_names) == names
