"""Where the kernels for CUDA devices are tested, and tests that need a device."""

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""The device of this machine, or the CPU, on which Triton's interpreter runs the kernels."""

NEEDS_DEVICE = [pytest.mark.gpu, pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")]
