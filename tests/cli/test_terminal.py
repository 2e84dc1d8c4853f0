"""What commands print, whatever a name holds and wherever the output goes."""

from __future__ import annotations

import csv
import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import pytest
from PIL import Image

import transxnet
from helpers.commands import paint, run
from helpers.networks import nano
from helpers.processes import Training
from transxnet.cli.main import main
from transxnet.text import printable

NAMES = {
    b"red\x1b[31m": r"red\x1b[31m",
    b"two\nlines": r"two\nlines",
    b"[bold]markup": "[bold]markup",
    b"\xff\xfe": r"\xff\xfe",
    "left\u202etfel".encode(): r"left\u202etfel",
    b"-dash": "-dash",
    b"$x$ {y} %s": "$x$ {y} %s",
    "Größe 猫".encode(): "Größe 猫",
}
"""Names of files and folders, and how they are printed."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with odd names, three images in each, and a network trained on them."""
    root = tmp_path_factory.mktemp("odd")
    for name in NAMES:
        (root / "photos" / os.fsdecode(name)).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (32, 32), (80 * index, len(name), 0)).save(
                root / "photos" / os.fsdecode(name) / f"{os.fsdecode(name)}{index}.png"
            )
    fast = ("--image-size", 32, "--epochs", 1, "--cooldown-epochs", 0, "--native-kernels", "false")
    assert run("train", "--data", root / "photos", *fast, "--out", root / "run") == 0
    return root


def test_training_shows_odd_names(odd: Path) -> None:
    with Image.open(odd / "run/samples.png") as picture:
        assert min(picture.size) > 100


@pytest.mark.parametrize("command", ["predict", "eval", "data check"])
def test_no_name_reaches_the_terminal_unescaped(command: str, odd: Path, capfd: pytest.CaptureFixture[str]) -> None:
    photos, network = odd / "photos", ("--checkpoint", odd / "run")
    arguments = {
        "predict": ("predict", photos, *network, "--top", 8),
        "eval": ("eval", "--data", photos, *network, "--per-class"),
        "data check": ("data", "check", photos),
    }[command]
    assert run(*arguments) == 0
    printed = capfd.readouterr()
    for shown in NAMES.values():
        assert shown in printed.out
    assert all(character == "\n" or character.isprintable() for character in printed.out + printed.err)


def test_names_in_a_table_of_answers_are_valid_text(odd: Path, tmp_path: Path) -> None:
    assert run("predict", odd / "photos", "--checkpoint", odd / "run", "--out", tmp_path / "a.csv", "--top", 1) == 0
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        images = {row["image"] for row in csv.DictReader(file)}
    assert len(images) == 3 * len(NAMES)
    assert any("two\nlines" in name for name in images) and any(r"\udcff" in name for name in images)


def test_an_error_is_one_line_whatever_its_name_holds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        assert run("eval", "--data", "digits", "--checkpoint", tmp_path / os.fsdecode(name)) == 2
        printed = capfd.readouterr().err
        assert printed.count("\n") == 1 and printed[:-1].isprintable()
        assert NAMES[name] in printed


def test_emoji_of_several_people_stay_whole() -> None:
    assert printable("👩\u200d👩\u200d👧 a") == "👩\u200d👩\u200d👧 a"


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("missing", errno.ENOENT, "does not exist"),
        ("locked", errno.EACCES, "permission denied"),
        ("folder", errno.EISDIR, "is a folder, not a file"),
        ("a" * 300, errno.ENAMETOOLONG, "has a name that is too long"),
        ("full", errno.ENOSPC, "Make room"),
        ("odd", errno.ELOOP, "cannot be used: Too many levels of symbolic links"),
    ],
)
def test_what_the_system_refuses_is_reported_plainly(
    name: str, number: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(arguments: object) -> int:
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr("transxnet.cli.models.run", refuse)
    assert run("models") == 2
    printed = capsys.readouterr().err
    assert name in printed and message in printed and printed.count("\n") == 1


def command(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "transxnet", *map(str, arguments)]
    return subprocess.run(line, stderr=subprocess.PIPE, text=True, check=False, **settings)  # type: ignore[call-overload, no-any-return]


def close_output() -> None:
    os.close(1)


def fill_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


@pytest.mark.parametrize("spoil", [pytest.param(close_output, marks=pytest.mark.slow), fill_output])
def test_results_that_cannot_be_printed_are_no_success(spoil: Callable[[], None]) -> None:
    done = command("--version", preexec_fn=spoil)
    assert done.returncode == 1
    assert done.stderr.startswith("transxnet") and "cannot write to standard output" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_terminal_that_knows_only_ascii(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(printed, encoding="ascii"))
    assert run("convert", "Größe.pth", tmp_path / "a.safetensors") == 2
    sys.stderr.flush()
    line = printed.getvalue().decode("ascii")
    assert r"Gr\xf6\xdfe.pth does not exist" in line and line.count("\n") == 1


def test_training_outlives_the_reader_of_its_progress(tmp_path: Path) -> None:
    paint(tmp_path / "photos", 5)
    fast = ("--epochs", 1, "--image-size", 32, "--batch-size", 8, "--native-kernels", "false")
    process = Training("--data", tmp_path / "photos", *fast, "--out", tmp_path / "run", unread=True)
    assert process.communicate() == "standard output: Broken pipe; going on without it\n"
    assert process.returncode == 0
    assert (tmp_path / "run/summary.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_half_written_file(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, path: Path, **settings: object) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), number)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", interrupted)
    before = signal.signal(number, signal.SIG_DFL)  # nohup would have it ignored
    try:
        with pytest.raises(SystemExit) as ended:
            main(["plot", "accuracy", "--out", str(tmp_path / "a.png")])
    finally:
        signal.signal(number, before)
    assert ended.value.code == 128 + number
    assert not list(tmp_path.iterdir())


def test_a_name_that_begins_with_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    transxnet.save_model(nano(num_classes=2), tmp_path / "weights.safetensors")
    Image.new("RGB", (40, 40)).save(tmp_path / "--top-view.png")
    assert run("predict", "--checkpoint", "weights.safetensors", "--", "--top-view.png") == 0
