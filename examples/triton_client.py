"""Classify images by a network on a Triton server: class names and probabilities, best first."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from PIL import Image
from timm.data import create_transform

PREPARATION = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def classify(address: str, model: str, labels: Path, files: Sequence[str], top: int = 3) -> list[dict[str, float]]:
    with triton.InferenceServerClient(address) as client:
        parameters = client.get_model_config(model).config.parameters
        about = {name: json.loads(parameters[name].string_value) for name in PREPARATION if name in parameters}
        transform: Any = create_transform(**about)
        images = np.stack([np.asarray(transform(Image.open(file).convert("RGB"))) for file in files])
        given = triton.InferInput("images", list(images.shape), "FP32")
        given.set_data_from_numpy(images)
        scores = client.infer(model, [given]).as_numpy("scores")
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    names = labels.read_text(encoding="utf-8").splitlines()
    return [{names[index]: float(row[index]) for index in (-row).argsort()[:top]} for row in shares]


if __name__ == "__main__":
    for answer in classify("localhost:8001", "digits", Path("models/digits/labels.txt"), sys.argv[1:]):
        print(answer)
