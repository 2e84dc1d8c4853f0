"""Where the kernels for CUDA devices are tested."""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""The device of this machine, or the CPU, on which Triton's interpreter runs the kernels."""
