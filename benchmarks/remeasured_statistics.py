"""Evaluate the networks of a comparison again, with recomputed statistics of batch normalisation.

    python benchmarks/remeasured_statistics.py runs/table5 runs/table6

The running statistics of a short run average over all its weights and do not match the final ones. Here they are
recomputed for every network, in one pass over the training images without augmentation.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import update_bn

import transxnet
from transxnet.classification.evaluate import evaluate
from transxnet.classification.recipe import ClassificationRecipe
from transxnet.data.loader import LabelledImages, make_loader
from transxnet.data.sources import open_data
from transxnet.data.transforms import evaluation_transform
from transxnet.research.compare import Comparison, Contender, as_markdown, welch_p_value


def judged_again(name: str, weights: Path, data: Any) -> float:
    model = transxnet.create_model(name, checkpoint=weights)
    images = LabelledImages(data.train, evaluation_transform(vars(model)["pretrained_cfg"]))
    update_bn([batch.images for batch in make_loader(images, 64)], model)
    return evaluate(model, data.validation).top1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of transxnet compare")
    for folder in parser.parse_args().folders:
        stored = json.loads((folder / "comparison.json").read_text())
        data, seeds = open_data(stored["budget"]["data"]), stored["seeds"]
        contenders: list[Contender] = []
        for network in stored["networks"]:
            name = network["name"]
            files = [folder / name / f"seed{seed}" / "weights.safetensors" for seed in seeds]
            scores = tuple(judged_again(name, file, data) for file in files)
            contenders.append(Contender(name, scores, network["parameters"], tuple(network["seconds"])))
        first, *others = contenders
        others = [replace(one, p_value=welch_p_value(one.scores, first.scores)) for one in others]
        images = (stored["training_images"], stored["validation_images"])
        print(as_markdown(Comparison(ClassificationRecipe(), tuple(seeds), images, (first, *others))), flush=True)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
