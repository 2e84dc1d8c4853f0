"""Comparing networks under one training budget, with several seeds each: small versions of Tables V to IX."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from transxnet.classification.experiment import ClassificationExperiment
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.errors import ConfigError
from transxnet.files import read_json, read_text, reading, write_text
from transxnet.output_paths import output_folder
from transxnet.training.checkpointing import newest_whole
from transxnet.training.run import train
from transxnet.training.run_folder import RunFolder, is_run
from transxnet.zoo import full_name

_SIGNIFICANCE = 0.05
"""Significance level of differences."""


@dataclass(frozen=True)
class Contender:
    """Results of a network.

    Attributes:
        name: The network's registered name.
        scores: Top-1 accuracy of each seed's run, from 0 to 1.
        parameters: Number of parameters.
        seconds: Training time of each run.
        p_value: P-value of the difference to the first network; None for the first network, and for
            too few runs.
    """

    name: str
    scores: tuple[float, ...]
    parameters: int
    seconds: tuple[float, ...]
    p_value: float | None = None

    @property
    def mean(self) -> float:
        return statistics.mean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the runs; None for a single run."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    @property
    def verdict(self) -> str:
        """The comparison with the first network in words."""
        if self.p_value is None:
            return ""
        return "different" if self.p_value < _SIGNIFICANCE else "within the noise"


@dataclass(frozen=True)
class Comparison:
    """Results of networks under one budget.

    Attributes:
        recipe: The budget: all settings except network and seed.
        seeds: Seeds of the runs.
        images: Numbers of training and validation images.
        contenders: Results in the given order.
    """

    recipe: ClassificationRecipe
    seeds: tuple[int, ...]
    images: tuple[int, int]
    contenders: tuple[Contender, ...]


def compare(
    names: Sequence[str],
    recipe: ClassificationRecipe,
    seeds: Sequence[int],
    folder: Path,
    console: Console,
    done: Callable[[str, int, float], None] = lambda name, seed, score: None,
) -> Comparison:
    """Train every network with every seed, and evaluate each run on the held-out images.

    Finished runs are not repeated; interrupted ones are resumed.

    Args:
        names: Registered names.
        recipe: The budget.
        seeds: Seeds of initialisation, order and augmentation, one per run of a network.
        folder: Folder of the runs.
        console: Console for each run's progress.
        done: Called with name, seed and top-1 of each finished run.

    Raises:
        ConfigError: If a name is unknown or given twice, or the folder has runs of another budget.
        Stopped: If a signal stopped a run.
    """
    for index, name in enumerate(names):
        full_name(name)
        if name in names[:index]:
            raise ConfigError(f"{name} is given twice")
    summaries: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in seeds:  # seeds first, so that an interrupted comparison covers all networks
        for name in names:
            own = dataclasses.replace(recipe, model=name, seed=seed).resolved()
            summary = _run(own, folder / name / f"seed{seed}", console)
            _check_same_data(folder, summaries[names[0]] or [summary], summary)
            summaries[name].append(summary)
            done(name, seed, summary["top1"])
    first = summaries[names[0]]
    contenders = [_contender(name, summaries[name], None if name == names[0] else first) for name in names]
    images = (first[0]["training_images"], first[0]["validation_images"])
    return Comparison(recipe, tuple(seeds), images, tuple(contenders))


def _run(recipe: ClassificationRecipe, path: Path, console: Console) -> dict[str, Any]:
    folder = RunFolder(output_folder(path, ours=is_run))
    if is_run(path) and read_text(folder.config) != recipe.to_yaml():
        raise ConfigError(f"{path} has a run of another budget; choose another folder, or remove it")
    if not folder.summary.exists():
        train(ClassificationExperiment, recipe, folder, console, resume=newest_whole(folder.checkpoints, console))
    with reading(folder.summary, ConfigError, "remove the run to repeat it"):
        summary: dict[str, Any] = read_json(folder.summary)
        numbers = {name: float(summary[name]) for name in ("top1", "seconds")}
        counts = {name: int(summary[name]) for name in ("parameters", "training_images", "validation_images")}
    return numbers | counts


def _check_same_data(folder: Path, others: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
    before, now = (one["training_images"] + one["validation_images"] for one in (others[0], summary))
    if before != now:
        raise ConfigError(
            f"the data changed between the runs in {folder}: {before:,} images, now {now:,}; choose another folder, or "
            "remove the older runs"
        )


def is_comparison(folder: Path) -> bool:
    """Whether a folder has runs of :func:`compare`."""
    return any(is_run(run) for run in folder.glob("*/seed*"))


def _contender(
    name: str, summaries: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]] | None
) -> Contender:
    scores = tuple(summary["top1"] for summary in summaries)
    p_value = None
    if reference is not None and len(scores) > 1:
        p_value = welch_p_value(scores, [summary["top1"] for summary in reference])
    parameters = summaries[0]["parameters"]
    return Contender(name, scores, parameters, tuple(summary["seconds"] for summary in summaries), p_value)


def welch_p_value(scores: Sequence[float], others: Sequence[float]) -> float:
    """P-value of a difference of means by Welch's t-test, two-sided."""
    if len({*scores}) == len({*others}) == 1:  # without noise every difference is significant
        return 1.0 if scores[0] == others[0] else 0.0
    from scipy.stats import ttest_ind

    return float(ttest_ind(scores, others, equal_var=False).pvalue)


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """Plain values, for JSON."""
    return {
        "budget": comparison.recipe.settings(),
        "seeds": list(comparison.seeds),
        "training_images": comparison.images[0],
        "validation_images": comparison.images[1],
        "networks": [
            {
                "name": one.name,
                "parameters": one.parameters,
                "top1": list(one.scores),
                "mean": one.mean,
                "deviation": one.deviation,
                "p_value": one.p_value,
                "verdict": one.verdict,
                "seconds": list(one.seconds),
            }
            for one in comparison.contenders
        ],
    }


def as_markdown(comparison: Comparison) -> str:
    """A table of the results, with the conclusion."""
    lines = [
        "| network | parameters | top-1 of each seed | mean | deviation | beside the first |",
        "|---|---|---|---|---|---|",
    ]
    for one in comparison.contenders:
        scores = ", ".join(f"{100 * score:.2f}" for score in one.scores)
        deviation = "" if one.deviation is None else f"{100 * one.deviation:.2f}"
        beside = "" if one.p_value is None else f"{one.verdict} (p = {one.p_value:.2f})"
        cells = (f"`{one.name}`", f"{one.parameters / 1e6:.2f} M", scores, f"{100 * one.mean:.2f}", deviation, beside)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + "\n" + conclusion(comparison) + "\n"


def conclusion(comparison: Comparison) -> str:
    """The differences between the first network and the others, and their significance, in words."""
    first, *others = comparison.contenders
    tested = [one for one in others if one.p_value is not None]
    if not tested:
        return "With one seed the noise is unknown, so differences cannot be assessed."
    different = [one for one in tested if one.p_value is not None and one.p_value < _SIGNIFICANCE]
    step = 100 / comparison.images[1]
    text = (
        f"{len(tested) - len(different)} of {len(tested)} networks differ from {first.name} by no more than the "
        f"noise of {len(comparison.seeds)} seeds (Welch's t-test, p >= {_SIGNIFICANCE}); one image is {step:.2f} "
        "points."
    )
    if different:
        named = ", ".join(f"{one.name} ({100 * (one.mean - first.mean):+.2f})" for one in different)
        expected = f"{_SIGNIFICANCE * len(tested):.1f}"
        text += f" Different: {named}. Of {len(tested)} tests, {expected} would be different by chance."
    return text


def write(comparison: Comparison, folder: Path) -> None:
    """Write the comparison as JSON and Markdown."""
    write_text(folder / "comparison.json", json.dumps(as_dict(comparison), indent=2) + "\n")
    write_text(folder / "comparison.md", as_markdown(comparison))
