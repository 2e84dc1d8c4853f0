"""Structures of the C++ code; their sizes are compared when the library is loaded."""

from __future__ import annotations

import ctypes

_POINTER, _NUMBER = ctypes.c_void_p, ctypes.c_int64


class Matrix(ctypes.Structure):
    """Packed weight and bias."""

    _fields_ = [("weight", _POINTER), ("bias", _POINTER), ("inner", _NUMBER), ("columns", _NUMBER)]


class Filter(ctypes.Structure):
    """A depthwise convolution."""

    _fields_ = [("kernel", _POINTER), ("bias", _POINTER), ("size", _NUMBER)]


class Norm(ctypes.Structure):
    """Normalisation over an image."""

    _fields_ = [("weight", _POINTER), ("bias", _POINTER), ("epsilon", ctypes.c_float)]


class Reduction(ctypes.Structure):
    """OSR."""

    _fields_ = [
        ("size", _NUMBER), ("stride", _NUMBER),
        ("kernel", _POINTER), ("bias", _POINTER), ("scale", _POINTER), ("shift", _POINTER),
    ]  # fmt: skip


class Scales(ctypes.Structure):
    """MS-FFN's depthwise convolutions in blocks of channels, and the affine map before them."""

    _fields_ = [
        ("blocks", _NUMBER), ("halo", _NUMBER), ("sizes", _POINTER), ("starts", _POINTER),
        ("kernels", _POINTER), ("bias", _POINTER), ("before_scale", _POINTER), ("before_shift", _POINTER),
    ]  # fmt: skip


class Block(ctypes.Structure):
    """Constants of a block."""

    _fields_ = [
        ("channels", _NUMBER), ("local", _NUMBER), ("heads", _NUMBER), ("groups", _NUMBER),
        ("kernel_size", _NUMBER),
        ("position", Filter), ("norm1", Norm),
        ("attention_squeeze", Matrix), ("attention_scores", Matrix), ("bank", _POINTER),
        ("q", Matrix), ("kv", Matrix), ("reduction", Reduction), ("refinement", Filter), ("neighbours", Filter),
        ("squeeze", Matrix), ("restore", Matrix), ("identity", _POINTER),
        ("norm2", Norm), ("expand", Matrix), ("project", Matrix), ("scales", Scales),
    ]  # fmt: skip


class Convolution(ctypes.Structure):
    """A convolution as a matrix product."""

    _fields_ = [("matrix", Matrix), ("size", _NUMBER), ("stride", _NUMBER), ("padding", _NUMBER)]


class Attention(ctypes.Structure):
    """Attention, from attention.h."""

    _fields_ = [
        ("images", _NUMBER), ("queries", _NUMBER), ("keys", _NUMBER), ("heads", _NUMBER), ("width", _NUMBER),
        ("q", _POINTER), ("q_pixel", _NUMBER), ("k", _POINTER), ("v", _POINTER), ("kv_pixel", _NUMBER),
        ("out", _POINTER), ("out_pixel", _NUMBER), ("bias", _POINTER), ("rows", _POINTER), ("columns", _POINTER),
        ("stored", _NUMBER),
    ]  # fmt: skip


class AttentionGradients(ctypes.Structure):
    """Attention's gradients, from attention_gradients.h."""

    _fields_ = [
        ("job", Attention), ("gradient", _POINTER),
        ("q_gradient", _POINTER), ("k_gradient", _POINTER), ("v_gradient", _POINTER), ("bias_gradient", _POINTER),
    ]  # fmt: skip


class Bias(ctypes.Structure):
    """A position bias, whole or in factors."""

    _fields_ = [("map", _POINTER), ("rows", _POINTER), ("columns", _POINTER), ("stored", _NUMBER)]


class BatchNorm(ctypes.Structure):
    """Batch normalisation in training, from batch_norm.h."""

    _fields_ = [
        ("rows", _NUMBER), ("channels", _NUMBER), ("in", _POINTER), ("means", _POINTER), ("factors", _POINTER),
        ("weight", _POINTER), ("bias", _POINTER),
    ]  # fmt: skip


class ScaleGradients(ctypes.Structure):
    """A layer scale's gradients, from layer_scale.h."""

    _fields_ = [
        ("rows", _NUMBER), ("channels", _NUMBER), ("in", _POINTER), ("gradient", _POINTER), ("weight", _POINTER),
        ("in_gradient", _POINTER), ("weight_gradient", _POINTER), ("bias_gradient", _POINTER),
    ]  # fmt: skip


SHARED = (Matrix, Filter, Norm, Reduction, Scales, Block, Convolution, Attention, Bias)
"""Structures of all kernels."""

FLOAT32 = (AttentionGradients, BatchNorm, ScaleGradients)
"""Structures of the kernels for float32 only."""
