"""``transxnet.publish``."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it is not in __all__

from transxnet.api.model_card import CURVES, RECIPE, SAMPLES, Publication, files_of, model_card
from transxnet.api.networks import open_network, task_of
from transxnet.api.run_facts import RunFacts, find_facts
from transxnet.bounds import shown
from transxnet.checkpoints.hub_config import HUB_CONFIG
from transxnet.checkpoints.hub_folder import WEIGHTS, check_other_weights, save_folder
from transxnet.classification.labels import readable_names
from transxnet.errors import ConfigError
from transxnet.files import read_bytes, read_text, reading, replacing_folder, write_text
from transxnet.output_paths import output_folder
from transxnet.text import unicode_text
from transxnet.training.recipe_file import dump_yaml
from transxnet.training.run_folder import is_run

CARD = "README.md"
_OPTIONAL = (RECIPE, SAMPLES, CURVES)
_DATASET = re.compile(r"(?:[\w.-]+/)?[\w.-]+", re.ASCII)

_LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigcode-openrail-m openrail++ afl-3.0 "
    "artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 "
    "cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 "
    "cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 "
    "cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl "
    "gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 "
    "odc-by odbl osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown other "
)
LICENSES = tuple(_LICENSES.split())
"""Identifiers of licences on the Hugging Face Hub."""


@dataclass(frozen=True)
class Published:
    """A folder that was published.

    Attributes:
        folder: The folder.
        files: Names of its files.
        task: "classification", "detection" or "segmentation".
        architecture: Registered name of the network, or of the backbone.
        classes: Number of classes.
        remarks: Sentences on what the card lacks or shows, and on files that stay in the folder.
        upload: The command that uploads the folder; it is not run.
    """

    folder: Path
    files: tuple[str, ...]
    task: str
    architecture: str
    classes: int
    remarks: tuple[str, ...]
    upload: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "folder": unicode_text(str(self.folder)), "files": list(self.files),
                "remarks": list(self.remarks), "upload": unicode_text(self.upload)}  # fmt: skip


def publish(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    license: str | None = None,  # noqa: A002
    repo: str | None = None,
    datasets: Sequence[str] = (),
    pictures: bool = True,
    force: bool = False,
) -> Published:
    """Write a network as a folder for the Hugging Face Hub, with a model card, as ``transxnet publish`` does.

    Nothing is uploaded. The folder holds the weights that ``transxnet eval`` evaluates, ``config.json`` as timm
    writes it, ``README.md`` and, of a run, ``recipe.yaml`` and its pictures.

    Args:
        run: A run folder, or a checkpoint of any task.
        folder: The folder to write.
        license: Identifier of the weights' licence on the Hub, such as "apache-2.0"; the card states none by default.
        repo: Name that the network will have on the Hub, such as "user/name", for the code in the card.
        datasets: Identifiers on the Hub of the data that the network was trained on.
        pictures: Whether to copy the run's pictures: samples are images of the data.
        force: Whether to write to a folder that holds files: those of the same names are replaced, and those that its
            card lists as written with it are removed.

    Returns:
        What was written.

    Raises:
        ConfigError: If the folder may not be written, or a setting cannot be used.
        CheckpointError: If the weights cannot be read.
    """
    _check_settings(license, repo, datasets)
    facts = find_facts(run)
    inputs = [name for name in facts.inputs if "://" not in name]
    target = output_folder(folder, inputs=inputs, force=force)
    if is_run(target):
        raise ConfigError(f"{folder} holds a training run: give another folder")
    check_other_weights(target)
    network, _ = open_network(facts.weights, device="cpu")
    copied = _pictures(facts) if pictures else {}
    files = [CARD, HUB_CONFIG, WEIGHTS, *([RECIPE] if facts.recipe else []), *copied]
    about = _publication(network, facts, target, license, repo, datasets, files)
    rest = [name for name in _OPTIONAL if name not in files and (target / name).exists()]
    obsolete = files_of(_old_card(target)) & set(rest)
    with replacing_folder(target, [*files[3:], *files[:3]], obsolete) as temporary:  # the weights appear last
        save_folder(network, temporary, license=license)
        write_text(temporary / CARD, model_card(about))
        if facts.recipe:
            write_text(temporary / RECIPE, dump_yaml(dict(facts.recipe)))
        for name, content in copied.items():
            (temporary / name).write_bytes(content)
    remarks = [*_remarks(about), *(f"{name} was in the folder and stays" for name in rest if name not in obsolete)]
    return Published(target, tuple(files), about.task, about.architecture, len(about.class_names), tuple(remarks),
                     _upload(target, repo))  # fmt: skip


def _check_settings(license: str | None, repo: str | None, datasets: Sequence[str]) -> None:  # noqa: A002
    if license is not None and license not in LICENSES:
        near = difflib.get_close_matches(license.lower(), LICENSES, 1)
        hint = f"did you mean {near[0]}?" if near else "give other for one that it does not list"
        raise ConfigError(f"the Hugging Face Hub knows no licence {shown(license)}; {hint}")
    if repo is not None:
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise ConfigError(f"repo is a name such as user/network, not {shown(repo)}") from error
    for name in datasets:
        if not _DATASET.fullmatch(name):
            raise ConfigError(f"a data set of the Hugging Face Hub has a name such as user/images, not {shown(name)}")


def _publication(
    network: Any,
    facts: RunFacts,
    target: Path,
    license: str | None,  # noqa: A002
    repo: str | None,
    datasets: Sequence[str],
    files: Sequence[str],
) -> Publication:
    task = task_of(network)
    if task == "classification":
        names = readable_names(network)
    else:
        from transxnet.data.known_classes import known_classes

        network.head_description = known_classes(network.head_description)
        names = list(network.head_description.label_names)
    name = repo.rpartition("/")[2] if repo else target.name
    return Publication(name, target.name, network, task, names, facts, license, repo, datasets, files)


def _pictures(facts: RunFacts) -> dict[str, bytes]:
    """The run's pictures that are of the published weights, by name."""
    found = {}
    for name in (SAMPLES, CURVES) if facts.final else (CURVES,):
        if facts.run is not None and (path := facts.run.path / name).is_file():
            with reading(path, ConfigError, "or publish with pictures=False (--no-pictures)"):
                found[name] = read_bytes(path)
    return found


def _old_card(folder: Path) -> str:
    """The card in a folder; empty if there is none that can be read."""
    try:
        return read_text(folder / CARD)
    except (OSError, ValueError):
        return ""


def _remarks(about: Publication) -> list[str]:
    remarks = list(about.facts.remarks)
    if not about.license:
        remarks.append("the card states no licence of the weights")
    if not about.metrics and not about.facts.remarks:
        remarks.append("no scores are known for these weights")
    if SAMPLES in about.files:
        remarks.append(f"{SAMPLES} shows images of the data")
    return remarks


def _upload(target: Path, repo: str | None) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", target.name)
    return f"hf upload {repo or f'USER/{name}'} {shlex.quote(str(target))}"
