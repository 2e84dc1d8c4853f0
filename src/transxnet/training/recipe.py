"""A training run as a file: every setting that decides its result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from transxnet.errors import ConfigError

# What may be changed when a run is taken up again: none of it changes a bit of the result.
_FREE = {"workers", "max_bad", "max_skipped", "checkpoint_minutes", "keep_checkpoints", "wandb"}


@dataclass(frozen=True)
class Recipe:
    """What the recipes of all tasks say; each task's class adds its own.

    Attributes:
        data: What is embedded ("digits", or "scenes" for boxes and pixels), or a folder: of class
            folders with train/ and val/ or without, in COCO's layout, or in ADE20K's.
        checkpoint: Weights to start from: a released file, a file or run folder of ours, or a URL.
        epochs: Passes over the training images, or sets of `epoch_steps` steps.
        batch_size: Images that a device takes at once.
        accumulate: Batches whose gradients are added up before a step.
        lr: Highest learning rate.
        scale_lr_from: Number of images in a step for which `lr` and `min_lr` are meant; they are
            scaled in proportion to the real number. 0 leaves them as they are.
        weight_decay: Decay of the weights (AdamW).
        drop_path: Stochastic depth of the last block.
        ema_decay: Decay of the averaged weights, which are the result; 0 for no averaging.
        precision: "32", "bf16-mixed" or "16-mixed" (GPU; attention stays in float32).
        grad_checkpointing: Recompute the blocks in the backward pass: less memory, more time.
        compile: Compile the blocks with torch.compile: minutes at first, then faster on a GPU.
        native_kernels: On a CPU, compute depthwise convolutions, attention, batch normalisation, GELU
            and layer scales in float32 by the package's own kernels, where there is a C++ compiler and
            TRANSXNET_KERNELS does not say otherwise; false leaves them to PyTorch.
        accelerator: "auto", "cpu" or "gpu".
        devices: Devices of a machine: a number, or "auto" for all GPUs or one CPU; torchrun and
            SLURM decide it themselves.
        nodes: Machines; torchrun and SLURM decide it themselves.
        strategy: "auto" (DDP if there is more than one device), "ddp" or "fsdp".
        checkpoint_minutes: Time between two checkpoints within an epoch; 0 for epochs' ends only.
        keep_checkpoints: How many of the newest checkpoints are kept.
        max_skipped: Steps in a row without a finite gradient that stop the run.
        wandb: Weights & Biases project to log to as well; needs `pip install wandb`.
        seed: Decides initialisation, order and augmentation.
        workers: Processes that read images; 0 reads in the main one.
        max_bad: Share of the images that may be unreadable before training stops.
    """

    task: ClassVar[str]

    data: str
    checkpoint: str | None = None
    epochs: int = 1
    batch_size: int = 1
    accumulate: int = 1
    lr: float = 1e-3
    scale_lr_from: int = 0
    weight_decay: float = 0.05
    drop_path: float = 0.0
    ema_decay: float = 0.0
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    grad_checkpointing: bool = False
    compile: bool = False
    native_kernels: bool = True
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: str = "auto"
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    checkpoint_minutes: float = 15.0
    keep_checkpoints: int = 3
    max_skipped: int = 20
    wandb: str | None = None
    seed: int = 0
    workers: int = 0
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        self._at_least(1, "epochs", "batch_size", "accumulate", "nodes", "keep_checkpoints", "max_skipped")
        self._at_least(0, "scale_lr_from", "workers", "seed", "checkpoint_minutes", "weight_decay")
        self._shares("max_bad", "drop_path", "ema_decay")
        if self.devices != "auto" and not (self.devices.isdecimal() and int(self.devices) > 0):
            raise ConfigError(f'devices is a number above 0 or "auto", not {self.devices!r}')
        if self.strategy == "fsdp" and self.ema_decay:
            raise ConfigError("strategy fsdp cannot average the weights: give --ema-decay 0, or take ddp")
        if self.lr <= 0:
            raise ConfigError(f"lr must be above 0, not {self.lr}")

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")

    def _shares(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} lies between 0 and 1, not {getattr(self, name)}")

    @property
    def subject(self) -> str:
        """The network, for a line that says what is trained."""
        raise NotImplementedError

    @property
    def total_epochs(self) -> int:
        """All epochs."""
        return self.epochs

    @property
    def memory_note(self) -> str:
        """The images' size, for a line that says that they need too much memory."""
        return ""

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
        return yaml.safe_dump(self.settings(), sort_keys=False)


def recipe_path(name: str) -> Path:
    """The file of a recipe: a shipped one by its name, such as "digits", or any path.

    Raises:
        ConfigError: If there is neither; the shipped ones are listed.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = Path(str(resources.files("transxnet") / "recipes"))
    path = shipped / f"{name}.yaml"
    if not path.is_file():
        names = sorted(str(file.relative_to(shipped).with_suffix("")) for file in shipped.rglob("*.yaml"))
        raise ConfigError(f"there is no recipe {name!r}: give a file, or one of {', '.join(names)}")
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
