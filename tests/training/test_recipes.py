"""The shipped recipes, and the released recipe's parameter groups and schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from torch.optim import Optimizer

import transxnet
from helpers.networks import nano, released_shapes
from transxnet.checkpoints.released import rename
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.classification.task import ClassificationTask
from transxnet.cli.train import parse_recipe
from transxnet.data.loader import BadImages, Batch

RECIPES = Path(transxnet.__file__).parent / "recipes"
# Fields whose default changes nothing.
NEUTRAL = {"task", "checkpoint", "seed", "max_bad", "workers", "accumulate", "scale_lr_from", "layer_decay",
           "precision", "grad_checkpointing", "compile", "native_kernels", "accelerator", "devices", "nodes",
           "strategy", "sync_batchnorm",
           "checkpoint_minutes", "keep_checkpoints", "max_skipped", "wandb",
           "backbone_checkpoint", "backbone_settings", "model_settings",
           "milestones", "min_factor", "proposals", "regions"}  # fmt: skip
SHIPPED = sorted(str(path.relative_to(RECIPES).with_suffix("")) for path in RECIPES.rglob("*.yaml"))


def task(name: str, recipe: ClassificationRecipe) -> ClassificationTask:
    return ClassificationTask(transxnet.create_model(name), recipe, BadImages(1, 0))


def optimizer_of(task: ClassificationTask) -> tuple[Optimizer, Any]:
    optimizer = task.configure_optimizers()
    return optimizer, task.schedule


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_is_complete_and_says_what_it_gives(name: str) -> None:
    start = ["--checkpoint", "x.pth"] if name == "finetune" else []
    recipe = parse_recipe(["--recipe", name, *start])
    text = (RECIPES / f"{name}.yaml").read_text()
    written, resolved = yaml.safe_load(text), yaml.safe_load(recipe.to_yaml())
    assert resolved == resolved | written
    assert set(resolved) - set(written) <= NEUTRAL
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert any("Command:  transxnet train" in line for line in header)
    assert any("Hardware:" in line for line in header)
    if name.startswith(("imagenet", "coco", "ade20k")):
        assert any("Expected:" in line for line in header)
        assert any("Not run here" in line for line in header)


@pytest.mark.parametrize(
    ("name", "drop_path", "ema_decay", "eval_crop"),
    [("tiny", 0.1, 0.9998, 0.9), ("small", 0.2, 0.99985, 0.9), ("base", 0.4, 0.99985, 0.95)],
)
def test_the_paper_s_recipes_differ_where_they_should(
    name: str, drop_path: float, ema_decay: float, eval_crop: float
) -> None:
    recipe = parse_recipe(["--recipe", f"imagenet/{name}"])
    assert isinstance(recipe, ClassificationRecipe)
    assert recipe.model == f"transxnet_{name}"
    assert (recipe.drop_path, recipe.ema_decay, recipe.eval_crop) == (drop_path, ema_decay, eval_crop)
    tiny = parse_recipe(["--recipe", "imagenet/tiny"])
    same = {"model": "", "drop_path": 0.0, "ema_decay": 0.0, "eval_crop": 0.0}
    assert yaml.safe_load(recipe.to_yaml()) | same == yaml.safe_load(tiny.to_yaml()) | same


def test_weight_decay_falls_on_the_parameters_it_falls_on_in_the_released_recipe() -> None:
    made = task("transxnet_tiny", ClassificationRecipe())
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    decays = {
        names[id(parameter)]: group["weight_decay"]
        for group in optimizer_of(made)[0].param_groups
        for parameter in group["params"]
    }
    # The released rule looks at its own names and shapes.
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    expected = {
        rename(name): 0.05 if len(shape) > 1 and not name.endswith(".bias") else 0.0
        for name, shape in released_shapes("tiny", "classifier").items()
        if not name.endswith(statistics)
    }
    assert decays == expected
    assert sum(decay > 0 for decay in decays.values()) == 363


def test_the_learning_rate_of_every_epoch() -> None:
    made = task("transxnet_nano", ClassificationRecipe())
    optimizer, schedule = optimizer_of(made)
    rates, decays = [], set()
    for epoch in range(310):
        rates.append(optimizer.param_groups[0]["lr"])
        decays |= {group["weight_decay"] for group in optimizer.param_groups}
        schedule.step(epoch + 1)
    expected = {0: 1e-6, 1: 4.008e-4, 4: 1.6002e-3, 5: 1.99864e-3, 150: 1.005e-3, 299: 1.00546e-5}
    expected |= dict.fromkeys(range(300, 310), 1e-5)
    for epoch, rate in expected.items():
        assert rates[epoch] == pytest.approx(rate, rel=1e-5), epoch
    assert decays == {0.0, 0.05}
    assert ClassificationRecipe().total_epochs == 310


def test_rates_are_scaled_on_request_only() -> None:
    rates = []
    for meant in (0, 1024):
        made = task(
            "transxnet_nano", ClassificationRecipe(scale_lr_from=meant, accumulate=2, batch_size=64, warmup_epochs=0)
        )
        made.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        rates.append(optimizer_of(made)[0].param_groups[0]["lr"])
    assert rates == [2e-3, pytest.approx(2.5e-4)]


def test_targets_are_mixed_as_the_images_are_and_erasing_comes_last() -> None:
    model = nano(num_classes=4)
    images = torch.stack([torch.full((3, 64, 64), float(value)) for value in range(4)])
    batch = Batch(images, torch.arange(4), torch.arange(4), [])
    made = ClassificationTask(model, ClassificationRecipe(label_smoothing=0.0, mixup=0.8, cutmix=0.0), BadImages(1, 0))
    made.erase.probability = 0.0
    mixed, targets = made.mixed(batch.images.clone(), batch.targets)
    assert torch.allclose(mixed.mean((1, 2, 3)), targets @ torch.arange(4.0), atol=1e-5)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    made.erase.probability = 1.0
    erased, _ = made.mixed(batch.images.clone(), batch.targets)
    assert all(len(image.unique()) > 100 for image in erased)  # noise of its own, not of the other image
    plain = ClassificationTask(model, ClassificationRecipe(label_smoothing=0.1, mixup=0.0, cutmix=0.0), BadImages(1, 0))
    _, targets = plain.mixed(batch.images.clone(), batch.targets)
    assert torch.allclose(targets.diagonal(), torch.full((4,), 0.925))
