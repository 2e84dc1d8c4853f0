"""Lightning's Trainer as a recipe asks for it, and the kernels that compute its steps."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from transxnet import kernels
from transxnet.errors import ConfigError, TransXNetError
from transxnet.kernels.policy import has_triton
from transxnet.text import counted
from transxnet.training.monitors import Monitors
from transxnet.training.recipe import Recipe, resolved_precision, uses_gpu
from transxnet.training.run_folder import RunFolder


def make_trainer(recipe: Recipe, folder: RunFolder, monitors: Monitors, first_step: int = 0) -> Trainer:
    """The Trainer of a run.

    Args:
        recipe: The settings.
        folder: The run folder.
        monitors: Callbacks, profiler and writer of checkpoints.
        first_step: Steps before this part of the run.

    Raises:
        ConfigError: If this machine lacks what the recipe asks for.
    """
    gpu = uses_gpu(recipe)
    if recipe.accelerator == "gpu" and not gpu:
        raise ConfigError("there is no GPU here: leave --accelerator auto, or give cpu")
    if recipe.precision == "16-mixed" and not gpu:
        raise ConfigError("precision 16-mixed needs a GPU; on a CPU, take bf16-mixed or 32")
    if recipe.strategy == "fsdp" and not gpu:
        raise ConfigError("strategy fsdp needs GPUs; on a CPU, take ddp")
    plugins: list[Any] = [monitors.files]
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # signals.py saves and requeues at a whole step
    try:
        return Trainer(
            **hardware(recipe, gpu),
            use_distributed_sampler=False,  # ours distributes the images by (seed, epoch, index)
            max_epochs=recipe.total_epochs,
            accumulate_grad_batches=recipe.accumulate,
            logger=loggers(recipe, folder, first_step),
            callbacks=monitors.callbacks,
            plugins=plugins,
            profiler=monitors.times,
            default_root_dir=folder.path,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
        )
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ConfigError(f"Lightning cannot run this: {' '.join(str(error).split())}") from error


def hardware(recipe: Recipe, gpu: bool) -> dict[str, Any]:
    """The Trainer's settings of devices, strategy and precision."""
    devices, nodes = processes(recipe)
    precision = resolved_precision(recipe)
    return {
        "accelerator": "gpu" if gpu else "cpu",
        "devices": devices,
        "num_nodes": nodes,
        "strategy": _strategy(recipe, devices, nodes),
        "precision": "32-true" if precision == "32" else precision,
    }


def processes(recipe: Recipe) -> tuple[int | str, int]:
    """Devices of a machine, and machines: torchrun's and SLURM's, where one of them started this process."""
    if TorchElasticEnvironment.detect():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    devices: int | str = int(recipe.devices) if recipe.devices != "auto" else "auto"
    nodes = recipe.nodes
    if SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", nodes))
        tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "")
        devices = int(tasks) if devices == "auto" and tasks.isdecimal() else devices
    return devices, nodes


def loggers(recipe: Recipe, folder: RunFolder, first_step: int) -> list[Logger]:
    """TensorBoard, without the events that a killed run logged from this step on, and Weights & Biases on request.

    Raises:
        ConfigError: If that is asked for and not installed.
    """
    made: list[Logger] = [TensorBoardLogger(folder.path, "", "tensorboard", purge_step=first_step or None)]
    if recipe.wandb:
        try:
            made.append(WandbLogger(project=recipe.wandb, name=folder.path.name, save_dir=folder.path))
        except ModuleNotFoundError as error:
            raise ConfigError("--wandb needs Weights & Biases: pip install wandb") from error
    return made


def kernel_policy(recipe: Recipe, device: str) -> kernels.Policy:
    """Which kernels compute the operators in a run: see :data:`transxnet.kernels.Policy`.

    Kernels for CPUs are neither looked for nor compiled in a run on a GPU.

    Args:
        recipe: Its ``native_kernels: false`` asks for PyTorch's.
        device: PyTorch's name of the device.
    """
    policy = kernels.current_policy()
    if not recipe.native_kernels or policy == "reference":
        return "reference"
    kind = torch.device(device).type
    if kind == "cuda":
        return "triton" if has_triton(torch.device(device).index or 0) else "reference"
    if recipe.compile or kind != "cpu":
        return "reference"
    if policy != "auto":
        return policy
    # Without compiled kernels or a compiler PyTorch's kernels give the same, more slowly.
    return "native" if kernels.native_available() else "reference"


def _strategy(recipe: Recipe, devices: int | str, nodes: int) -> Strategy | str:
    several = nodes > 1 or (devices != "auto" and int(devices) > 1) or (devices == "auto" and _visible(recipe) > 1)
    if recipe.strategy == "fsdp":
        return FSDPStrategy(state_dict_type="full")
    if recipe.strategy == "ddp" or several:
        # Statistics are synchronised, or the first process's are used in validation. Gradients are views of the buckets
        # that are reduced: no copy back, and no second copy in memory. A static graph saves the search for unused
        # parameters, which is off, and does not go with the compiler, which splits the graph by buckets.
        return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
    return "auto"


def _visible(recipe: Recipe) -> int:
    return torch.cuda.device_count() if recipe.accelerator != "cpu" else 1


@contextmanager
def out_of_memory_explained(recipe: Recipe) -> Iterator[None]:
    """Report every form of "out of memory" in one line, with what helps.

    Raises:
        TransXNetError: Instead of PyTorch's errors.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and "can't allocate memory" not in str(error):
            raise
        raise TransXNetError(
            f"out of memory with {counted(recipe.batch_size, 'image')}{recipe.memory_note} a device: "
            f"halve --batch-size and double --accumulate (the result stays nearly the same), add --grad-checkpointing "
            f"true, or --precision bf16-mixed"
        ) from error


class quiet_lightning(warnings.catch_warnings):  # noqa: N801 (used as a function)
    """Suppress Lightning's remarks on loggers, workers and hardware."""

    def __enter__(self) -> None:
        super().__enter__()
        for name in ("lightning.pytorch", "lightning.fabric", "timm.scheduler"):
            logging.getLogger(name).setLevel(logging.ERROR)
        for message in (".*does not have many workers.*", ".*Checkpoint directory.*", ".*TensorBoard.*",
                        ".*number of training batches.*", ".*treespec.*", ".*logs directory.*",
                        ".*GPU available but not used.*", ".*sync_dist=True.*", ".*broadcast_buffers.*",
                        ".*Grad strides do not match.*"):  # fmt: skip
            warnings.filterwarnings("ignore", message)
