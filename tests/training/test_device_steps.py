"""Steps as a GPU takes them: nothing waits for the device, which is the CPU here, with its operations counted."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from PIL import Image
from rich.console import Console
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from helpers.networks import images, nano
from helpers.poisoned import Poisoned
from transxnet import kernels
from transxnet.classification import task as classification
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.data.loader import BadImages, Batch
from transxnet.data.randomness import addressed_randomness
from transxnet.data.transforms import Augmentation, Normalisation, evaluation_transform, training_transform
from transxnet.errors import ConfigError, TransXNetError
from transxnet.layers import Block
from transxnet.training import callbacks, trainer
from transxnet.training.acceleration import accelerated
from transxnet.training.averaging import MovingAverage
from transxnet.training.monitors import Monitors
from transxnet.training.nonfinite import FiniteSteps
from transxnet.training.recipe import synchronises
from transxnet.training.run_folder import RunFolder
from transxnet.training.trainer import kernel_policy, make_trainer

SMALL: dict[str, Any] = {"num_classes": 3, "depths": (1, 1, 1, 1)}
SETTINGS: dict[str, Any] = {"lr": 1e-3, "warmup_epochs": 0, "epochs": 1, "cooldown_epochs": 0, "accelerator": "cpu"}


class Operations(TorchDispatchMode):
    """Counts PyTorch's operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer of a GPU."""
    monkeypatch.setattr(classification, "create_optimizer_v2", partial(create_optimizer_v2, fused=True))


def made(**settings: Any) -> Poisoned:
    recipe = ClassificationRecipe(
        **SETTINGS | {"mixup": 0, "cutmix": 0, "augmentation": Augmentation(erase=0)} | settings
    )
    return Poisoned(nano(**SMALL).train(), recipe, BadImages(1, 0))


def batches(count: int) -> Any:
    indices = torch.arange(4 * count).split(4)
    made = [Batch(images(4, 3, 32, 32) + i, torch.arange(4) % 3, indices[i], []) for i in range(count)]
    return DataLoader(made, batch_size=None)  # type: ignore[arg-type]


def fit(poisoned: Sequence[int], finite: FiniteSteps, count: int = 3, **settings: Any) -> tuple[Poisoned, Trainer]:
    task = made()
    task.poisoned = poisoned
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    runner = Trainer(accelerator="cpu", max_epochs=1, callbacks=[finite], **quiet, **settings)
    torch.manual_seed(0)
    runner.fit(task, batches(count))
    return task, runner


def names(indices: Sequence[int]) -> list[str]:
    return [f"image {index}" for index in indices]


def contents(task: Poisoned, runner: Trainer) -> list[Tensor]:
    state = runner.optimizers[0].state_dict()["state"]
    return [*task.state_dict().values(), *(value for each in state.values() for value in each.values())]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_device_skips_the_steps_that_the_host_skips(accumulate: int, tmp_path: Path) -> None:
    """Parameters, running statistics and the optimizer's state, to the bit."""
    results = []
    for on_device in (False, True):
        watch = FiniteSteps(5, names, tmp_path / "report.txt", on_device=on_device)
        results.append(contents(*fit([1], watch, count=4, accumulate_grad_batches=accumulate)))
        assert watch.skipped == 1
    assert all(map(torch.equal, *results))


def test_the_scaler_of_float16_and_the_check_skip_a_step_once(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    watch = FiniteSteps(5, names, tmp_path / "report.txt", on_device=True)
    task, runner = fit([1], watch, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    assert watch.skipped == 1
    assert scaler.get_scale() == 128.0
    assert all(value.isfinite().all() for value in task.state_dict().values())
    states = runner.optimizers[0].state_dict()["state"].values()
    assert {float(state["step"]) for state in states} == {2.0}


def test_too_many_skipped_steps_are_found_at_the_next_reading(tmp_path: Path) -> None:
    """Though a step that is finite came since; the images are those of the last skipped step."""
    watch = FiniteSteps(2, names, tmp_path / "report.txt", on_device=True)
    with pytest.raises(TransXNetError, match="not finite in 2 steps in a row"):
        fit([1, 2], watch, count=4)
    assert (tmp_path / "report.txt").read_text().split("\n")[:-1] == names(range(8, 12))


def test_no_step_waits_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every callback of a run, mixing, erasing and averaging; every tenth step may."""
    settings = {"mixup": 0.8, "cutmix": 1.0, "augmentation": Augmentation(), "ema_decay": 0.9}
    task = made(**settings, checkpoint_minutes=0.0)
    monitors = Monitors.create(task.recipe, task, str, RunFolder(tmp_path), Console(quiet=True))
    monitors.finite._on_device = True
    monkeypatch.setattr(callbacks, "may_wait", lambda trainer, batch_idx: batch_idx % 10 == 0)
    operations, waits = Operations(), []

    class Watch(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
            waits.append(operations.counts["_local_scalar_dense"] + operations.counts["equal"])
            operations.counts.clear()

    monitors.callbacks.append(Watch())
    runner = make_trainer(task.recipe, RunFolder(tmp_path), monitors)
    with operations:
        runner.fit(task, batches(4))
    assert waits[0] > 0  # the loss for the display, and the counts of skipped steps
    assert waits[1:] == [0, 0, 0]


def averaging(task: nn.Module) -> MovingAverage:
    average = MovingAverage(0.9)
    runner: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), global_step=0)
    average.setup(runner, task, "fit")  # type: ignore[arg-type]
    return average


def moved(task: nn.Module) -> None:
    with torch.no_grad():
        for value in (*task.parameters(), *task.buffers()):
            value.add_(torch.rand(value.shape) if value.is_floating_point() else 1)


def test_the_average_is_lightnings_without_its_counters() -> None:
    task = made()
    expected = AveragedModel(task, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    average, resumed = averaging(task), averaging(task)
    for step in range(1, 5):
        runner: Any = SimpleNamespace(global_step=step)
        if step == 3:  # from a checkpoint, perhaps of an earlier release
            checkpoint: dict[str, Any] = {"state_dict": task.state_dict()}
            average.on_save_checkpoint(runner, task, checkpoint)
            resumed.on_load_checkpoint(runner, task, copy.deepcopy(checkpoint))
            average = resumed
        average.on_train_start(runner, task)
        moved(task)
        expected.update_parameters(task)
        with Operations() as operations:
            average.on_train_batch_end(runner, task, None, None, step)
            average.on_train_batch_end(runner, task, None, None, step)  # gradients are accumulated
        assert sum(operations.counts.values()) < 10
    assert average._average_model is not None
    state, current = average._average_model.state_dict(), task.state_dict()
    for name, value in expected.state_dict().items():
        counter = name.endswith("num_batches_tracked")
        assert torch.equal(state[name], current[name.removeprefix("module.")] if counter else value), name


@pytest.mark.parametrize("bands", [2, 3])
@pytest.mark.parametrize("part", ["training", "validation"])
def test_bytes_are_normalised_on_the_device_to_the_same_values(bands: int, part: str) -> None:
    described = {"input_size": (bands, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "crop_pct": 0.9}
    image = Image.effect_noise((48, 40), 80).convert("L" if bands == 2 else "RGB")
    if bands == 2:
        image = Image.merge("LA", (image, image.rotate(180)))

    def transformed(**settings: Any) -> Tensor:
        with addressed_randomness(0):
            if part == "training":
                return training_transform(described, Augmentation(), **settings)(image)
            return evaluation_transform(described, **settings)(image)

    as_bytes = transformed(normalise=False)
    assert as_bytes.dtype == torch.uint8
    normalised = Normalisation(described)(as_bytes[None])
    assert torch.equal(normalised[0], transformed())
    assert normalised.is_contiguous(memory_format=torch.channels_last)


def test_a_task_normalises_the_bytes_of_its_batches() -> None:
    task, batch = (
        made(),
        Batch(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8), torch.zeros(2), torch.zeros(2), []),
    )
    images = task.on_after_batch_transfer(batch, 0).images
    assert images.dtype == torch.float32 and images.abs().max() < 3
    assert task.on_after_batch_transfer(batch._replace(images=images), 0).images is images


@pytest.mark.parametrize("how", ["network", "blocks"])
def test_a_network_is_compiled_for_the_run_alone(how: Any) -> None:
    network = nano(**SMALL)
    before = list(network.state_dict())

    def compiled(module: nn.Module) -> list[type]:
        return [type(part) for part in module.modules() if part._compiled_call_impl is not None]

    with accelerated(network, ClassificationRecipe(compile=how), gpu=False):
        assert set(compiled(network)) == ({type(network)} if how == "network" else {Block})
        assert list(network.state_dict()) == before
        assert not compiled(copy.deepcopy(network))
    assert not compiled(network)


def test_arithmetic_of_gpus_is_reset_after_the_run() -> None:
    def settings() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark

    before = settings()
    with accelerated(nn.Identity(), ClassificationRecipe(), gpu=True):
        assert settings() == ("high", True)
    assert settings() == before


def test_true_compiles_the_blocks() -> None:
    recipe = ClassificationRecipe(compile=True)
    assert recipe.compile == "blocks" and not recipe.changes_from(ClassificationRecipe(compile="blocks"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``gpu(bfloat16)``: as on a machine with a GPU."""

    def describe(bfloat16: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)

    return describe


def test_the_precision_is_the_device_s(gpu: Callable[..., None]) -> None:
    recipe = ClassificationRecipe()
    assert (recipe.resolved().precision, synchronises(recipe)) == ("32", False)
    for bfloat16, precision in ((True, "bf16-mixed"), (False, "16-mixed")):
        gpu(bfloat16)
        assert (recipe.resolved().precision, synchronises(recipe)) == (precision, True)
        assert ClassificationRecipe(accelerator="cpu").resolved().precision == "32"
        assert ClassificationRecipe(precision="32").resolved().precision == "32"
    assert not synchronises(ClassificationRecipe(sync_batchnorm=False))


def test_a_resumed_run_keeps_its_precision() -> None:
    started = ClassificationRecipe(precision="bf16-mixed")
    assert not ClassificationRecipe().following(started).changes_from(started)
    other = ClassificationRecipe(precision="32")
    assert set(other.following(started).changes_from(started)) == {"precision"}


def test_a_gpu_s_kernels_are_tritons_and_no_compiler_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bool:
        raise ConfigError("a compiler is called")

    monkeypatch.setattr(kernels, "native_available", fail)
    for installed, expected in ((True, "triton"), (False, "reference")):
        monkeypatch.setattr(trainer, "has_triton", lambda device, installed=installed: installed)
        assert kernel_policy(ClassificationRecipe(), "cuda:0") == expected
        assert kernel_policy(ClassificationRecipe(compile="network"), "cuda:0") == expected
        assert kernel_policy(ClassificationRecipe(native_kernels=False), "cuda:0") == "reference"
