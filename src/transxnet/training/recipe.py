"""A training run as a file: every setting that decides its result."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from transxnet.data.transforms import Augmentation
from transxnet.errors import ConfigError

# What may be changed when a run is taken up again: none of it changes a bit of the result.
_FREE = {"workers", "max_bad", "max_skipped", "checkpoint_minutes", "keep_checkpoints", "wandb"}


@dataclass(frozen=True)
class Recipe:
    """What to train, on what, and how.

    The default numbers are the paper's ImageNet recipe.

    Attributes:
        data: "digits" (embedded) or a folder: train/ and val/ (or validation/) with a folder for
            each class, or just the class folders, of which a fifth is then held out.
        model: Name of the network, as `transxnet models` lists them; null for the checkpoint's.
        checkpoint: Weights to start from: a released file, a file or run folder of ours, a URL,
            or "released" to download the authors'.
        image_size: Side of the square training images in pixels; null for the checkpoint's.
        eval_crop: Share of the resized image's side that evaluation keeps.
        epochs: Passes over the training images during which the cosine schedule falls.
        cooldown_epochs: Further passes at the lowest rate.
        batch_size: Images that a device takes at once.
        accumulate: Batches whose gradients are added up before a step.
        lr: Highest learning rate.
        min_lr: Lowest learning rate of the cosine schedule.
        scale_lr_from: Number of images in a step for which `lr` and `min_lr` are meant; they are
            scaled in proportion to the real number. 0 leaves them as they are.
        warmup_epochs: Epochs over which the rate first rises.
        weight_decay: Decay of the tensors that are neither vectors nor biases (AdamW).
        layer_decay: Factor of the rate from one layer to the one below; 1 for equal rates.
        label_smoothing: Share of the target spread over the other classes.
        mixup: Parameter of Mixup's beta distribution; 0 for none.
        cutmix: The same of CutMix; with both, each batch draws one of them.
        drop_path: Stochastic depth of the last block.
        ema_decay: Decay of the averaged weights, which are the result; 0 for no averaging.
        precision: "32", "bf16-mixed" or "16-mixed" (GPU; attention stays in float32).
        grad_checkpointing: Recompute the blocks in the backward pass: less memory, more time.
        compile: Compile the blocks with torch.compile: minutes at first, then faster on a GPU.
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
        augmentation: How training images are varied.
    """

    data: str = "digits"
    model: str | None = "transxnet_tiny"
    checkpoint: str | None = None
    image_size: int | None = 224
    eval_crop: float = 0.9
    epochs: int = 300
    cooldown_epochs: int = 10
    batch_size: int = 128
    accumulate: int = 1
    lr: float = 2e-3
    min_lr: float = 1e-5
    scale_lr_from: int = 0
    warmup_epochs: int = 5
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    label_smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    drop_path: float = 0.1
    ema_decay: float = 0.9998
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    grad_checkpointing: bool = False
    compile: bool = False
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
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        whole = {"epochs": 1, "batch_size": 1, "accumulate": 1, "nodes": 1}
        whole |= {"keep_checkpoints": 1, "max_skipped": 1}
        whole |= dict.fromkeys(("cooldown_epochs", "scale_lr_from", "workers", "seed"), 0)
        if self.image_size is not None:
            whole["image_size"] = 32
        if not self.checkpoint and (self.model is None or self.image_size is None):
            raise ConfigError("without a checkpoint to follow, give --model and --image-size")
        for name, least in whole.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("max_bad", "label_smoothing", "drop_path", "ema_decay", "layer_decay", "eval_crop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} lies between 0 and 1, not {getattr(self, name)}")
        if self.devices != "auto" and not (self.devices.isdecimal() and int(self.devices) > 0):
            raise ConfigError(f'devices is a number above 0 or "auto", not {self.devices!r}')
        if self.checkpoint_minutes < 0:
            raise ConfigError(f"checkpoint_minutes must not be negative, but is {self.checkpoint_minutes}")
        if self.strategy == "fsdp" and self.ema_decay:
            raise ConfigError("strategy fsdp cannot average the weights: give --ema-decay 0, or take ddp")
        if self.lr <= 0:
            raise ConfigError(f"lr must be above 0, not {self.lr}")
        if self.mixup < 0 or self.cutmix < 0:
            raise ConfigError(f"mixup and cutmix must not be negative, but are {self.mixup} and {self.cutmix}")

    @property
    def total_epochs(self) -> int:
        """All passes over the training images."""
        return self.epochs + self.cooldown_epochs

    def changes_from(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Settings that decide the result and differ: name to (other's, ours)."""
        mine, theirs = (_plain(dataclasses.asdict(recipe)) for recipe in (self, other))
        return {name: (theirs[name], mine[name]) for name in mine if name not in _FREE and theirs[name] != mine[name]}

    def to_yaml(self) -> str:
        """The recipe as a file that reproduces the run."""
        return yaml.safe_dump(_plain(dataclasses.asdict(self)), sort_keys=False)


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
