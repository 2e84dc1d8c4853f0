"""Python code in model cards, which loads a published network."""

from __future__ import annotations

import re
from typing import Any

_PLAIN = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_MODES = {1: "L", 3: "RGB"}  # of images by their channels


def snippets(network: Any, task: str, folder: str, repo: str | None) -> tuple[str, list[tuple[str, str]]]:
    """A sentence on the folder to run the code in, and libraries with code that loads a network with each of them.

    Args:
        network: The network.
        task: Its task.
        folder: Name of the folder that it is published in; the code reads it from the folder around it, or from the
            folder itself if the name cannot stand in code.
        repo: Its name on the Hub; the code then downloads it instead, and the sentence is empty.
    """
    if repo:
        return "", _codes(network, task, repo, hub=True)
    if _PLAIN.fullmatch(folder):
        return "Run the code in the folder that contains this one.", _codes(network, task, folder, hub=False)
    return "Run the code in this folder.", _codes(network, task, ".", hub=False)


def _codes(network: Any, task: str, path: str, *, hub: bool) -> list[tuple[str, str]]:
    if task != "classification":
        return [("transxnet", _predictor(path, hub))]
    channels = network.in_chans
    found = []
    if channels in _MODES:
        named = len(network.pretrained_cfg.get("label_names") or ()) == network.num_classes > 0
        found.append(("timm", _timm(path, hub, _MODES[channels], network.num_classes, named)))
    if network.num_classes:
        found.append(("transxnet", _predictor(path, hub)))
        if channels == 3:
            found.append(("transformers", _transformers(path)))
    elif channels not in _MODES:
        found.append(("transxnet", _network(path, hub, network.pretrained_cfg["input_size"])))
    return found


def _timm(path: str, hub: bool, mode: str, classes: int, named: bool) -> str:
    source = f"hf-hub:{path}" if hub else f"local-dir:{path}"
    if classes:
        use = "    probabilities = model(image[None]).softmax(dim=1)[0]\nbest = int(probabilities.argmax())\n"
        name = 'model.pretrained_cfg["label_names"][best]' if named else "best"
        use += f"print({name}, float(probabilities[best]))"
    else:
        use = "    print(model(image[None]).shape)"
    return f"""\
import timm
import torch
import transxnet  # registers the network with timm
from PIL import Image

model = timm.create_model("{source}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
image = transform(Image.open("image.jpg").convert("{mode}"))
with torch.inference_mode():
{use}
"""


def _transformers(path: str) -> str:
    return f"""\
import transxnet  # registers the network with timm, through which transformers runs it
from transformers import pipeline

classifier = pipeline("image-classification", model="{path}")
print(classifier("image.jpg"))
"""


def _predictor(path: str, hub: bool) -> str:
    return f"""\
import transxnet
{_download(path, hub)}
predictor = transxnet.Predictor({_argument(path, hub)})
print(predictor("image.jpg").to_dict())
"""


def _network(path: str, hub: bool, size: tuple[int, int, int]) -> str:
    return f"""\
import torch
import transxnet
{_download(path, hub)}
model = transxnet.load_model({_argument(path, hub)}).eval()
with torch.inference_mode():
    print(model(torch.rand(1, {", ".join(map(str, size))})).shape)
"""


def _download(path: str, hub: bool) -> str:
    return f'from huggingface_hub import snapshot_download\n\nfolder = snapshot_download("{path}")' if hub else ""


def _argument(path: str, hub: bool) -> str:
    return "folder" if hub else f'"{path}"'
