"""The operators: schema, shapes, gradients, and kernels for CPUs and CUDA devices. ``torch.ops.transxnet`` has them.

An operator is computed by a kernel where there is one for the device and type, and by PyTorch's operations
(:mod:`~transxnet.kernels.composite`) elsewhere. Maps are returned with the channels last in memory. A gradient
that is not asked for is returned empty. Gradients cannot be differentiated again.
"""

from transxnet.kernels.operators.attention import attention
from transxnet.kernels.operators.depthwise import depthwise_conv2d, multi_scale_conv2d
from transxnet.kernels.operators.norms import batch_norm, gelu, layer_scale

__all__ = ["attention", "batch_norm", "depthwise_conv2d", "gelu", "layer_scale", "multi_scale_conv2d"]
