"""The network's expensive operators, and the policy that chooses their implementation.

Each operator is registered once with PyTorch, in :mod:`~transxnet.kernels.operators`: schema, shapes, gradients. Its
implementations are a reference in PyTorch (:mod:`~transxnet.kernels.reference`), kernels in C++ for CPUs
(:mod:`~transxnet.kernels.cpu`) and in Triton for CUDA devices (:mod:`~transxnet.kernels.cuda`). Layers call the
functions below; a policy chooses the implementation:

    with transxnet.kernels.use("native"):   # or TRANSXNET_KERNELS=native in the environment
        model(images)
"""

from transxnet.kernels.functional import (
    GELUOrder,
    attention,
    batch_norm,
    depthwise_conv2d,
    dynamic_depthwise_conv2d,
    gelu,
    group_norm,
    layer_scale,
    prefers_factors,
    residual,
)
from transxnet.kernels.policy import Policy, current_policy, is_for_cuda, is_native, native_available, use
from transxnet.kernels.reference import Bias, FactoredBias, attend

__all__ = [
    "Bias",
    "FactoredBias",
    "GELUOrder",
    "Policy",
    "attend",
    "attention",
    "batch_norm",
    "current_policy",
    "depthwise_conv2d",
    "dynamic_depthwise_conv2d",
    "gelu",
    "group_norm",
    "is_for_cuda",
    "is_native",
    "layer_scale",
    "native_available",
    "prefers_factors",
    "residual",
    "use",
]
