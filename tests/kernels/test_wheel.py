"""Wheels with compiled kernels: built, checked, installed in an environment of their own, used without a compiler."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

from transxnet.kernels.cpu import levels

ROOT = Path(__file__).parents[2]
MACHINE = os.uname().machine
TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
ARM = "aarch64-linux-gnu-g++"
LEVELS = {level.float16 or level.float32: level for level in levels.LEVELS["x86_64"]}
TESTS = (
    "tests/kernels/test_native_training.py", "tests/inference/test_native_16_bits.py",
    "tests/kernels/test_operators.py::test_kernels_compute_what_pytorch_computes",
    "tests/inference/test_native.py::test_any_network_is_the_same",
    "tests/inference/test_native.py::test_every_size_with_any_number_of_threads",
    "tests/inference/test_native.py::test_the_papers_networks_are_the_same",
)  # fmt: skip
"""The tests of the kernels' numbers."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="wheels with compiled kernels are for Linux"),
]


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(one) for one in command], env={**os.environ, "PATH": TOOLS, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is built from, in which builds leave their files."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def built(checkout: Path, machine: str = "") -> Path:
    """Build a wheel as ``make wheel`` does."""
    out = checkout / f"out-{machine}"
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, checkout)
    run(*build, TRANSXNET_WHEEL_KERNELS=machine)
    if machine:
        (raw,) = out.iterdir()
        out = checkout / f"repaired-{machine}"
        run(sys.executable, "-m", "auditwheel", "repair", raw, "--wheel-dir", out)
    (wheel,) = out.iterdir()
    run(sys.executable, "-m", "twine", "check", "--strict", wheel)
    return wheel


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    if MACHINE != "x86_64":
        pytest.skip("builds a wheel for x86-64")
    return built(checkout, "x86_64")


def libraries(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        folder = f"transxnet/kernels/cpu/{levels.FOLDER}/"
        names = [name for name in file.namelist() if folder in name and name != folder]
        return {name.removeprefix(folder): file.read(name) for name in names}


def test_a_wheel_holds_all_levels(wheel: Path, checkout: Path) -> None:
    """And a build without kernels, after it in the same folder, none."""
    assert re.fullmatch(r"transxnet-[\w.]+-py3-none-manylinux[\w.]+_x86_64\.whl", wheel.name)
    found = libraries(wheel)
    assert found.keys() == {f"{name}.so" for name in levels.LIBRARIES["x86_64"]} | {levels.RECORD}
    assert wheel.stat().st_size < 5e6
    assert not [name for name, library in found.items() if b"libgomp" in library]
    pure = built(checkout)
    assert pure.name.endswith("-py3-none-any.whl")
    assert not libraries(pure)


@pytest.mark.skipif(not shutil.which(ARM), reason=f"needs {ARM}: on Debian, apt install g++-aarch64-linux-gnu")
def test_a_wheel_for_arm_is_built(checkout: Path) -> None:
    wheel = built(checkout, "aarch64")
    assert re.fullmatch(r"transxnet-[\w.]+-py3-none-manylinux[\w.]+_aarch64\.whl", wheel.name)
    found = libraries(wheel)
    assert found.keys() == {"neon.so", levels.RECORD}
    assert int.from_bytes(found["neon.so"][18:20], "little") == 183  # EM_AARCH64
    assert b"libgomp" not in found["neon.so"]


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a virtual environment with the wheel; other packages are those of this environment."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin" / "python"
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    run(sys.executable, *install, PYTHONPATH="")  # where pip would find this package
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


BARE = {"PATH": "", "HOME": "/proc", "XDG_CACHE_HOME": "/proc", "CXX": "not-there", "PYTHONPATH": ""}
"""An environment without a compiler, and with a cache that cannot be written, not even by root."""

FIRST_IMAGE = """
import json, time, warnings, torch, transxnet
warnings.simplefilter("error")
torch.set_num_threads(1)
model, image = transxnet.create_model("transxnet_tiny").eval(), torch.randn(1, 3, 224, 224)
with torch.inference_mode():
    wall, processor = time.perf_counter(), time.process_time()
    scores = transxnet.fuse(model, native=True)(image)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    error = float((scores - model(image)).abs().max() / scores.abs().max())
print(json.dumps([transxnet.__file__, wall, processor, error]))
"""


def test_the_first_image_is_not_waited_for(python: Path) -> None:
    file, wall, processor, error = json.loads(run(python, "-c", FIRST_IMAGE, **BARE).splitlines()[-1])
    assert file.startswith(str(python.parents[1]))
    assert processor < 2, f"{wall:.2f} s"  # by one thread; other processes do not affect it, as they do the time
    assert error <= 2e-5


THREADS = """
import json, os, re, sys, torch, transxnet
count = lambda: len(os.listdir("/proc/self/task"))
fused = transxnet.fuse(transxnet.create_model("transxnet_nano").eval(), native=True)
image, matrix = torch.randn(1, 3, 224, 224), torch.randn(1500, 1500)
torch.set_num_threads(4)
jobs = {"kernels": lambda: fused(image), "torch": lambda: matrix @ matrix}
counts = [count()]
with torch.inference_mode():
    for name in sys.argv[1:]:
        jobs[name]()
        counts.append(count() - counts[0])
    torch.set_num_threads(6)
    fused(image)
    counts.append(count() - counts[0])
runtimes = set(re.findall(r"\\S*lib(?:gomp|omp|iomp)\\S*", open("/proc/self/maps").read()))
print(json.dumps([counts[1:], sorted(runtimes)]))
"""


@pytest.mark.parametrize("order", [("kernels", "torch"), ("torch", "kernels")], ids="-".join)
def test_kernels_and_pytorch_share_their_threads(order: tuple[str, str], python: Path) -> None:
    """Neither do they start threads beside each other's, nor does one of them run alone; and there is one runtime."""
    printed = run(python, "-c", THREADS, *order, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", **BARE)
    counts, runtimes = json.loads(printed.splitlines()[-1])
    assert counts == [3, 3, 5]
    assert len(runtimes) == 1


@pytest.mark.parametrize("name", LEVELS)
def test_levels_compute_the_same(name: str, python: Path, tmp_path: Path) -> None:
    """The tests of the kernels' numbers, with the wheel's kernels of a level."""
    flags = levels.processor_flags(Path("/proc/cpuinfo").read_text())
    if missing := LEVELS[name].flags - flags:
        pytest.skip(f"this processor has no {', '.join(sorted(missing))}")
    (tmp_path / "chosen_level.py").write_text(
        "from transxnet.kernels.cpu import levels, prebuilt\n"
        f"prebuilt._level = lambda: levels.LEVELS['x86_64'][{list(LEVELS).index(name)}]\n"
    )
    command: tuple[Any, ...] = (python, "-m", "pytest", "-q", "-n0", "-m", "not slow", "-p", "chosen_level")
    tests = (f"{ROOT / test.partition('::')[0]}{test[len(test.partition('::')[0]) :]}" for test in TESTS)
    without = BARE | {"PYTHONPATH": str(tmp_path)}
    printed = run(*command, "-p", "no:cacheprovider", f"--rootdir={ROOT}", *tests, **without)
    assert re.search(r"^\d+ passed", printed.splitlines()[-1])
