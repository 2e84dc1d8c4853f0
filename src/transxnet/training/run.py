"""A run of any task from the recipe to the run folder."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import seed_everything
from rich.console import Console

from transxnet import kernels
from transxnet.checkpoints.writing import save_model
from transxnet.tasks import plan_function
from transxnet.training.engine import out_of_memory_explained, quiet_lightning
from transxnet.training.recipe import Recipe
from transxnet.training.run_folder import RunFolder
from transxnet.training.running import TrainingResult, finish, fit, kernel_policy, prepare


def train(
    recipe: Recipe, folder: RunFolder, console: Console, *, resume: Path | None = None, profile: bool = False
) -> TrainingResult | None:
    """Train as the recipe says, and leave weights, metrics and pictures in the run folder.

    Args:
        recipe: What to do.
        folder: Where the results go.
        console: Where progress is shown.
        resume: The checkpoint to go on from.
        profile: Tell where the time goes, and write a trace.

    Returns:
        The result; None in all processes but the first.

    Raises:
        TransXNetError: If the data, the checkpoint or a setting cannot be used.
        Stopped: If a signal asked to stop.
    """
    seed_everything(recipe.seed, verbose=False)
    plan = plan_function(recipe.task)(recipe, console)
    with quiet_lightning(), out_of_memory_explained(recipe):
        run = prepare(recipe, plan.task, plan.names, folder, console, profile=profile, resume=resume)
        policy = kernel_policy(recipe, run.device)
        plan.task.kernels = [policy]
        with kernels.use(policy):
            finished = fit(run, *plan.loaders(run), folder, console, resume)
    if not finished:
        return None
    save_model(plan.task.model, folder.weights)
    with kernels.use(policy):
        headline, scores = plan.judge(run, folder)
    return finish(run, folder, headline, scores, plan.images)
