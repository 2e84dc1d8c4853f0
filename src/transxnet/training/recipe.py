"""A training run as a file: every setting that decides its result."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from transxnet.bounds import (
    BatchSize,
    Devices,
    DropRate,
    Epochs,
    LearningRate,
    Minutes,
    Nodes,
    Seed,
    Share,
    StepImages,
    Tolerated,
    WeightDecay,
    Workers,
    check_bounds,
    checked,
    shown,
)
from transxnet.errors import ConfigError
from transxnet.files import user_path
from transxnet.training.recipe_file import dump_yaml

RELEASED_CHECKPOINT = "released"
"""As a checkpoint: download the authors' weights."""

Precision = Literal["auto", "32", "bf16-mixed", "16-mixed"]
"""Number formats of a run: float32, or a half precision with parameters in float32."""

# Settings that may change when a run is resumed: none of them changes a bit of the result.
_FREE = {"workers", "max_bad", "max_skipped", "checkpoint_minutes", "keep_checkpoints", "wandb"}


@dataclass(frozen=True)
class Recipe:
    """Settings that the recipes of all tasks share; each task's class adds its own.

    Attributes:
        data: An embedded data set ("digits", or "scenes" for boxes and pixels), or a folder: of class
            folders with train/ and val/ or without, in COCO's layout, or in ADE20K's.
        checkpoint: Weights to start from: a released file, a file or run folder of ours, or a URL.
        epochs: Passes over the training images, or sets of `epoch_steps` steps.
        batch_size: Images of a device in a batch.
        accumulate: Batches whose gradients are added up before a step.
        lr: Highest learning rate.
        scale_lr_from: Number of images in a step for which `lr` and `min_lr` are meant; they are
            scaled in proportion to the actual number. 0 leaves them as they are.
        weight_decay: Weight decay of AdamW.
        drop_path: Rate of stochastic depth in the last block.
        ema_decay: Decay of the moving average of the weights, which is the result; 0 for no averaging.
        precision: "32", "bf16-mixed", "16-mixed" (a GPU, with loss scaling), or "auto": on a GPU
            "bf16-mixed", or "16-mixed" if it has no bfloat16, and on a CPU "32". A run records what it was.
        grad_checkpointing: Recompute the blocks in the backward pass: less memory, more time.
        compile: Compile the whole "network" with torch.compile, or each of its "blocks", which takes less
            time at the start; true for "blocks". Minutes at first, then faster on a GPU.
        native_kernels: Compute depthwise convolutions, attention, batch normalisation, GELU and layer
            scales with the package's own kernels, unless TRANSXNET_KERNELS chooses others: on a GPU in
            Triton, on a CPU, in float32, where there are compiled ones or a C++ compiler; false for
            PyTorch's.
        accelerator: "auto", "cpu" or "gpu".
        devices: Devices of a machine: a number, or "auto" for all GPUs or one CPU; set by torchrun and
            SLURM where they start the run.
        nodes: Machines; set by torchrun and SLURM where they start the run.
        strategy: "auto" (DDP if there is more than one device), "ddp" or "fsdp".
        sync_batchnorm: Whether batch normalisation takes its statistics over the images of all devices:
            true, false, or "auto" for true on GPUs.
        checkpoint_minutes: Time between two checkpoints within an epoch; 0 for only after each epoch.
        keep_checkpoints: How many of the newest checkpoints are kept.
        max_skipped: Stop after so many consecutive steps without a finite gradient.
        wandb: Weights & Biases project to log to as well; needs `pip install wandb`.
        seed: Seed of initialisation, order and augmentation.
        workers: Processes that read images; 0 reads in the main one.
        max_bad: Maximum share of unreadable images.
    """

    task: ClassVar[str]
    fixed_size: ClassVar[bool] = False
    """Whether the network's images are all of one size."""

    data: str = ""
    checkpoint: str | None = None
    epochs: Epochs = 1
    batch_size: BatchSize = 1
    accumulate: BatchSize = 1
    lr: LearningRate = 1e-3
    scale_lr_from: StepImages = 0
    weight_decay: WeightDecay = 0.05
    drop_path: DropRate = 0.0
    ema_decay: DropRate = 0.0
    precision: Precision = "auto"
    grad_checkpointing: bool = False
    compile: Literal["network", "blocks", True, False] = False
    native_kernels: bool = True
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: str = "auto"
    nodes: Nodes = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    sync_batchnorm: Literal["auto", True, False] = "auto"
    checkpoint_minutes: Minutes = 15.0
    keep_checkpoints: Tolerated = 3
    max_skipped: Tolerated = 20
    wandb: str | None = None
    seed: Seed = 0
    workers: Workers = 0
    max_bad: Share = 0.01

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.compile is True:  # one spelling, so that equal recipes are equal
            object.__setattr__(self, "compile", "blocks")
        if self.devices != "auto":
            if not re.fullmatch("[0-9]{1,9}", self.devices):
                raise ConfigError(f'devices is a number above 0 or "auto", not {shown(self.devices)}')
            checked("devices", int(self.devices), Devices)
        if self.strategy == "fsdp" and self.ema_decay:
            raise ConfigError("strategy fsdp cannot average the weights: give --ema-decay 0, or take ddp")

    @property
    def subject(self) -> str:
        """The network, for messages."""
        raise NotImplementedError

    @property
    def total_epochs(self) -> int:
        """All epochs."""
        return self.epochs

    def images_per_step(self, world_size: int) -> int:
        """Images of all devices in a step."""
        return self.batch_size * self.accumulate * world_size

    def scaled(self, rate: float, world_size: int) -> float:
        """A learning rate of the recipe for the actual number of images in a step."""
        meant = self.scale_lr_from
        return rate * self.images_per_step(world_size) / meant if meant else rate

    @property
    def memory_note(self) -> str:
        """The images' size, for the message that memory is exhausted."""
        return ""

    @property
    def inputs(self) -> list[str]:
        """Data and weights that a run reads; names of embedded data and URLs among them."""
        return [self.data, *([self.checkpoint] if self.checkpoint else [])]

    def resolved(self) -> Self:
        """The recipe with the precision that "auto" is on this machine."""
        return dataclasses.replace(self, precision=resolved_precision(self))

    def following(self, started: Recipe) -> Self:
        """The recipe to resume a run with: a precision that is "auto" is the one that the run was started with."""
        return dataclasses.replace(self, precision=started.precision) if self.precision == "auto" else self

    def changes_from(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Settings that decide the result and differ: name to (other's, ours)."""
        mine, theirs = (recipe.settings() for recipe in (self, other))
        names = [name for name in mine if name not in _FREE]
        return {name: (theirs.get(name), mine[name]) for name in names if theirs.get(name) != mine[name]}

    def settings(self) -> dict[str, Any]:
        """Plain values, the task first."""
        return {"task": self.task, **_plain(dataclasses.asdict(self))}

    def to_yaml(self) -> str:
        """The recipe as a file that reproduces the run."""
        return dump_yaml(self.settings())


def uses_gpu(recipe: Recipe) -> bool:
    """Whether a recipe's run on this machine is on its GPUs."""
    import torch  # after the command's help, which does not wait for it

    return recipe.accelerator != "cpu" and torch.cuda.is_available()


def resolved_precision(recipe: Recipe) -> Precision:
    """Precision of a recipe on this machine."""
    if recipe.precision != "auto":
        return recipe.precision
    if not uses_gpu(recipe):
        return "32"
    import torch

    # PyTorch emulates bfloat16 on older devices, slowly.
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def synchronises(recipe: Recipe) -> bool:
    """Whether several processes synchronise the statistics of batch normalisation."""
    return uses_gpu(recipe) if recipe.sync_batchnorm == "auto" else recipe.sync_batchnorm


def recipe_path(name: str) -> Path:
    """The file of a recipe: a shipped one by its name, such as "digits", or any path.

    Raises:
        ConfigError: If there is neither; the shipped ones are listed.
    """
    shipped = Path(str(resources.files("transxnet") / "recipes"))
    names = sorted(file.relative_to(shipped).with_suffix("").as_posix() for file in shipped.rglob("*.yaml"))
    path = user_path(name)
    try:
        if path.exists() and not path.is_dir():
            return path
    except OSError as error:  # a name that is too long, or a folder that is closed
        raise ConfigError(f"there is no recipe {shown(name)}: {error.strerror}") from error
    if name not in names:
        raise ConfigError(f"there is no recipe {shown(name)}: give a file, or one of {', '.join(names)}")
    return shipped / f"{name}.yaml"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
