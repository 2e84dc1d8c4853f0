"""The model card of a published network, from its run's settings, data and scores."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from transxnet.api.card_snippets import snippets
from transxnet.api.run_facts import RunFacts
from transxnet.text import counted, markdown, percent, printable, unicode_text
from transxnet.version import __version__

RECIPE = "recipe.yaml"
SAMPLES = "samples.png"
CURVES = "curves.png"

_PIPELINES = {
    "classification": "image-classification",
    "detection": "object-detection",
    "segmentation": "image-segmentation",
}
_FEATURES = "image-feature-extraction"  # of a network without a classifier
_NOUNS = {"classification": "classifier", "detection": "detector", "segmentation": "segmenter"}
_LISTED = 50  # classes in a table
_LONGEST = 80  # characters of a class name
_WRITTEN = re.compile(r"^Files that transxnet \S+ \(Apache-2\.0\) wrote: (.+)\.$", re.MULTILINE)
_METRICS = (  # keys in a summary, name, and the Hub's identifier
    (("top1",), "top-1 accuracy", "accuracy"),
    (("top5",), "top-5 accuracy", "accuracy"),
    (("box", "AP"), "box AP", "mean_average_precision"),
    (("box", "AP50"), "box AP at IoU 0.5", "mean_average_precision"),
    (("mask", "AP"), "mask AP", "mean_average_precision"),
    (("mask", "AP50"), "mask AP at IoU 0.5", "mean_average_precision"),
    (("mIoU",), "mIoU", "mean_iou"),
    (("mAcc",), "mean accuracy of the classes", "accuracy"),
    (("aAcc",), "accuracy of all pixels", "accuracy"),
)
_CITATION = """\
```bibtex
@article{lou2023transxnet,
  title   = {TransXNet: Learning Both Global and Local Dynamics with a Dual Dynamic Token Mixer for Visual Recognition},
  author  = {Lou, Meng and Zhou, Hong-Yu and Yang, Sibei and Yu, Yizhou},
  journal = {arXiv preprint arXiv:2310.19380},
  year    = {2023}
}
```"""


@dataclass(frozen=True)
class Publication:
    """Contents of a model card.

    Attributes:
        name: Name of the published network.
        folder: Name of its folder.
        network: The network.
        task: Its task.
        class_names: Names of its classes.
        facts: Its run's settings, data and scores.
        license: Identifier of the weights' licence on the Hub; None if none is stated.
        repo: Name on the Hub; None if it has none.
        datasets: Identifiers of the training data on the Hub.
        files: Names of the files that are written, the card among them.
    """

    name: str
    folder: str
    network: Any
    task: str
    class_names: Sequence[str]
    facts: RunFacts
    license: str | None
    repo: str | None
    datasets: Sequence[str]
    files: Sequence[str]

    @property
    def architecture(self) -> str:
        """Registered name of the network, or of a detector's or segmenter's backbone."""
        network = self.network
        name = network.pretrained_cfg["architecture"] if self.task == "classification" else network.architecture
        return str(name)

    @property
    def kind(self) -> str:
        """The network in words."""
        if self.task == "classification":
            return f"`{self.architecture}`" + ("" if self.network.num_classes else " without a classifier")
        return f"{self.network.title} on `{self.architecture}`"

    @property
    def pipeline(self) -> str:
        """The Hub's name of the task."""
        return _PIPELINES[self.task] if self.class_names else _FEATURES

    @property
    def metrics(self) -> list[tuple[str, str, float]]:
        """Name, the Hub's identifier and value of each score that was measured."""
        found = []
        for keys, name, kind in _METRICS:
            value: Any = self.facts.result
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, float | int) and math.isfinite(value):
                found.append((name, kind, float(value)))
        return found

    @property
    def validation_images(self) -> int:
        """Number of images that the scores are of; 0 if it is not known."""
        count = self.facts.result.get("validation_images")
        return count if isinstance(count, int) else 0


def model_card(publication: Publication) -> str:
    """The content of a ``README.md``: front matter as the Hub reads it, then Markdown."""
    parts = [_introduction, _usage, _results, _data, _input, _training, _limits, _licence]
    lines = [line for part in parts for line in part(publication)]
    text = unicode_text("\n".join([*lines, "", "## Citation", "", _CITATION, ""]))
    content = f"---\n{_front_matter(publication).to_yaml()}\n---\n\n{text}"
    ModelCard(content)  # raises ValueError if the front matter cannot be read
    return content


def _front_matter(about: Publication) -> ModelCardData:
    classifier = about.task == "classification"
    kinds = list(dict.fromkeys(kind for _, kind, _ in about.metrics))
    data = _plain(about.facts.data_name) or "images"
    results = [
        EvalResult(
            task_type=about.pipeline,
            dataset_type=about.datasets[0] if about.datasets else re.sub(r"[^\w.-]+", "-", data, flags=re.ASCII),
            dataset_name=data,
            dataset_split="validation",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 6),
        )
        for name, kind, value in about.metrics
    ]
    return ModelCardData(
        license=about.license,
        library_name="timm" if classifier else "transxnet",
        pipeline_tag=about.pipeline,
        tags=[about.pipeline, "transxnet", *(["timm", "transformers"] if classifier else [])],
        datasets=list(about.datasets) or None,
        metrics=kinds or None,
        model_name=_plain(about.name) if results else None,
        eval_results=results or None,
    )


def _introduction(about: Publication) -> Iterator[str]:
    network = about.network
    parameters = sum(parameter.numel() for parameter in network.parameters())
    classes = f" for {counted(len(about.class_names), 'class')}" if about.class_names else ""
    yield f"# {markdown(about.name)}"
    yield ""
    yield f"A {_NOUNS[about.task]}{classes}: {about.kind}, {parameters / 1e6:.2f} M parameters, from"
    yield "[TransXNet](https://arxiv.org/abs/2310.19380), a vision backbone with global attention and dynamic"
    yield "convolution in every block."
    if SAMPLES in about.files:
        yield ""
        yield f"![Images that were held out, with the network's predictions]({SAMPLES})"


def _usage(about: Publication) -> Iterator[str]:
    yield ""
    yield "## Use"
    yield ""
    yield "`pip install transxnet`, which brings timm. Any size of image from 32 x 32 pixels works."
    where, codes = snippets(about.network, about.task, about.folder, about.repo)
    if where:
        yield where
    for library, code in codes:
        yield ""
        yield f"With {library}:"
        yield ""
        yield "```python"
        yield code.rstrip("\n")
        yield "```"


def _results(about: Publication) -> Iterator[str]:
    yield ""
    yield "## Results"
    yield ""
    if not about.metrics:
        yield "No scores were measured for these weights."
        return
    yield "| score | value |"
    yield "|---|---|"
    for name, _, value in about.metrics:
        yield f"| {name} | {percent(value, 2)} |"
    images = counted(about.validation_images, "validation image") if about.validation_images else "validation images"
    yield ""
    yield f"Measured by the training run at its end, with the weights that are published, on its {images}."


def _data(about: Publication) -> Iterator[str]:
    data = about.facts.data
    yield ""
    yield "## Data"
    yield ""
    parts, problems = data.get("parts"), data.get("problems")
    parts = [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    if about.facts.data_name:
        layout = f" ({markdown(str(data['layout']))})" if data.get("layout") else ""
        yield f"Trained on {markdown(about.facts.data_name)}{layout}."
    elif not parts:
        yield "What the network was trained on is not known."
    if parts:
        yield ""
        yield "| part | images | where from |"
        yield "|---|---|---|"
        for part in parts:
            images = part.get("images")
            shown = f"{images:,}" if isinstance(images, int) else "–"
            yield f"| {markdown(str(part.get('name')))} | {shown} | {markdown(str(part.get('origin')))} |"
    for kind, count in problems.items() if isinstance(problems, Mapping) else ():
        yield ""
        yield f"{markdown(str(kind))}: {markdown(str(count))}"
    yield from _classes(about, parts)


def _classes(about: Publication, parts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not about.class_names:
        return
    counts = [part.get("counts") for part in parts]
    columns = [(part, found) for part, found in zip(parts, counts, strict=True) if isinstance(found, Mapping) and found]
    yield ""
    heads = [f"{markdown(str(part.get('name')))}, {markdown(str(part.get('unit')))}" for part, _ in columns]
    yield f"| {' | '.join(['class', *heads])} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name in about.class_names[:_LISTED]:
        numbers = [found.get(name, found.get(unicode_text(name))) for _, found in columns]
        cells = "".join(f" {number:,} |" if isinstance(number, int) else " – |" for number in numbers)
        yield f"| {markdown(name, _LONGEST)} |{cells}"
    if len(about.class_names) > _LISTED:
        yield ""
        yield f"and {counted(len(about.class_names) - _LISTED, 'class')} more; `config.json` names all of them."


def _input(about: Publication) -> Iterator[str]:
    yield ""
    yield "## Input"
    yield ""
    if about.task == "classification":
        cfg = about.network.pretrained_cfg
        channels, height, width = cfg["input_size"]
        crop = f"{cfg.get('crop_mode') or 'center'}, {cfg['crop_pct']:.1%} of the resized side"
        yield f"Images of {counted(channels, 'channel')}, resized ({cfg['interpolation']}) and cropped ({crop}) to"
        yield f"{height} x {width} pixels;"
    else:
        head = about.network.head_description
        cfg = {"mean": about.network.mean, "std": about.network.std}
        yield f"Images of 3 channels, resized to a shorter side of {head.short} and a longer one of at most {head.long}"
        yield "pixels;"
    mean, std = (", ".join(f"{value:.4g}" for value in cfg[name]) for name in ("mean", "std"))
    yield f"values from 0 to 1, minus the mean ({mean}), divided by the standard deviation ({std})."
    yield "The code above does this."


def _training(about: Publication) -> Iterator[str]:
    recipe, result = about.facts.recipe, about.facts.result
    if not recipe:
        return
    yield ""
    yield "## Training"
    yield ""
    start = recipe.get("checkpoint") or recipe.get("backbone_checkpoint")
    begun = "the released weights" if start == "released" else markdown(str(start)) if start else "random weights"
    yield f"Started from {begun}."
    if about.facts.averaged:
        yield f"The published weights are a moving average (decay {markdown(str(recipe['ema_decay']))})."
    numbers: list[Any] = [
        result.get(name) for name in ("epochs", "steps", "images_per_step", "learning_rate", "seconds")
    ]
    if all(isinstance(number, int | float) for number in numbers):
        epochs, steps, images, rate, seconds = numbers
        yield f"{counted(epochs, 'epoch')}, {counted(steps, 'step')} of {counted(images, 'image')}, learning rate up to"
        yield f"{rate:.3g}, {seconds:,.0f} s."
    yield f"All settings are in [{RECIPE}]({RECIPE}), where paths have only their last part; to train again, with your"
    yield "path to the data:"
    yield ""
    yield "```bash"
    yield f"transxnet train --recipe {RECIPE} --data {_argument(about.facts.data_name)}"
    yield "```"
    versions = result.get("versions")
    if isinstance(versions, Mapping) and versions:
        yield ""
        yield f"Versions: {', '.join(markdown(f'{name} {version}') for name, version in versions.items())}."
    if CURVES in about.files:
        yield ""
        yield f"![Curves of the training run]({CURVES})"


def _limits(about: Publication) -> Iterator[str]:
    yield ""
    yield "## Limits"
    yield ""
    for remark in about.facts.remarks:
        yield f"- {markdown(remark[:1].upper() + remark[1:])}."
    if about.metrics:
        yield "- The scores are of validation images of the same data set; images from elsewhere were not evaluated."
    yield "- Robustness, calibration and differences between groups of people were not measured."
    bad, skipped = about.facts.result.get("bad_images"), about.facts.result.get("skipped_steps")
    if isinstance(bad, Mapping) and bad:
        yield f"- {counted(len(bad), 'image')} could not be read in training and evaluation, and are left out."
    if isinstance(skipped, int) and skipped:
        yield f"- {counted(skipped, 'step')} of the training without a finite gradient were skipped."


def _licence(about: Publication) -> Iterator[str]:
    yield ""
    yield "## Licence"
    yield ""
    if about.license:
        yield f"Weights: {about.license}."
    else:
        yield "No licence of the weights is stated: ask whoever published them before you use them."
    yield ""
    yield f"Files that transxnet {__version__} (Apache-2.0) wrote: {', '.join(f'`{name}`' for name in about.files)}."


def files_of(card: str) -> set[str]:
    """Names of the files that were written with a card; empty if it is not by :func:`model_card`."""
    found = _WRITTEN.search(card)
    return set(re.findall(r"`([^`]+)`", found[1])) if found else set()


def _plain(text: str) -> str:
    """A name as one line of Unicode, for the front matter."""
    return unicode_text(printable(text))


def _argument(name: str) -> str:
    return shlex.quote(name) if name and name.isprintable() and "`" not in name else "DATA"
