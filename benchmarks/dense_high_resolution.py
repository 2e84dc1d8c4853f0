"""Peak memory and time of detectors and the segmenter at the paper's sizes: a prediction, and a training step.

Each case runs in a separate process. Times are of one run, and only show whether the sizes are practical.

    python benchmarks/dense_high_resolution.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import torch
import torchvision

import transxnet
from transxnet.dense.pixel_classes import segmentation_loss

CASES = [(kind, step) for kind in ("retinanet", "mask_rcnn", "semantic_fpn") for step in ("predict", "train")]


def run(kind: str, step: str) -> None:
    torch.manual_seed(0)
    if kind == "semantic_fpn":
        height, width = 512, 2048
        model = transxnet.create_segmenter(kind, backbone="transxnet_tiny")
        image = torch.randn(1, 3, height, width)
        labels = torch.randint(150, (1, height, width))
    else:
        height, width = 800, 1333
        model = transxnet.create_detector(kind, backbone="transxnet_tiny")
        images = [torch.randint(256, (3, height, width), dtype=torch.uint8)]
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 100:400, 50:500] = masks[1, 200:700, 600:1200] = True
        boxes = torch.tensor([[50.0, 100, 500, 400], [600, 200, 1200, 700]])
        targets = [{"boxes": boxes, "labels": torch.tensor([0, 2]), "masks": masks}]
    started = time.perf_counter()
    if step == "predict":
        model.eval()
        with torch.inference_mode():
            model(image) if kind == "semantic_fpn" else model(images)
    else:
        model.train()
        if kind == "semantic_fpn":
            segmentation_loss(model(image), labels).backward()
        else:
            torch.stack(list(model(images, targets).values())).sum().backward()
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{kind:<13} {step:<8} {height} x {width}, batch 1: {seconds:6.1f} s, peak of the process {peak:5.2f} GiB")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run(*sys.argv[1:])
    else:
        print(
            f"transxnet_tiny, float32, {torch.get_num_threads()} threads, torch {torch.__version__}, "
            f"torchvision {torchvision.__version__}",
            flush=True,
        )
        for case in CASES:
            subprocess.run([sys.executable, __file__, *case], check=True)
