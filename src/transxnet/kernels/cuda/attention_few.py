"""Attention to few keys in Triton: all of a query's scores are in registers at once.

A program computes a tile of queries of one head for several images, which share the position bias. The channels of a
head are read where they are in a pixel's channels, padded to a power of two in registers only; so heads of any width
need neither padded weights nor copies. Each value is written by one program: results are the same in every run.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def product(a, b, precision: tl.constexpr):
    """A product of matrices, summed in float32. ``widened``: Triton's interpreter cannot multiply bfloat16."""
    if precision == "widened":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a, b, input_precision=precision)


@triton.jit
def load_head(x, first, count, pixel, width, rows: tl.constexpr, depth: tl.constexpr):
    """A head's channels (rows, depth) of the pixels from ``first``; zeros beyond ``count`` pixels and its width."""
    at, channel = first + tl.arange(0, rows), tl.arange(0, depth)
    inside = (at < count)[:, None] & (channel < width)[None, :]
    return tl.load(x + at[:, None] * pixel + channel[None, :], mask=inside, other=0.0)


@triton.jit
def store_head(x, value, first, count, pixel, width: tl.constexpr, rows: tl.constexpr, depth: tl.constexpr):
    """Store what :func:`load_head` loads."""
    at, channel = first + tl.arange(0, rows), tl.arange(0, depth)
    inside = (at < count)[:, None] & (channel < width)[None, :]
    tl.store(x + at[:, None] * pixel + channel[None, :], value.to(x.dtype.element_ty), mask=inside)


@triton.jit
def load_bias(bias, first, start, queries, keys, rows: tl.constexpr, columns: tl.constexpr):
    """The bias (rows, columns) from query ``first`` and key ``start``, in units of log 2; -inf beyond the keys."""
    row, column = first + tl.arange(0, rows), start + tl.arange(0, columns)
    inside = (row < queries)[:, None] & (column < keys)[None, :]
    value = tl.load(bias + row[:, None] * keys + column[None, :], mask=inside, other=0.0).to(tl.float32)
    return tl.where((column < keys)[None, :], value * LOG2E, float("-inf"))


@triton.jit
def attend(
    q, kv, bias, out, images, queries, keys, channels, scale, q_image, q_pixel, kv_image, kv_pixel, GROUP, HEADS,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of queries, heads, groups of images. ``out`` is contiguous (images, queries, channels)."""
    first, head, group = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    q_pixel, kv_pixel, channels = (q_pixel // VECTOR * VECTOR, kv_pixel // VECTOR * VECTOR, channels // VECTOR * VECTOR)
    q_image, kv_image = q_image // VECTOR * VECTOR, kv_image // VECTOR * VECTOR
    biases = load_bias(bias + head.to(tl.int64) * queries * keys, first, 0, queries, keys, ROWS, KEYS)
    for image in range(group * GROUP, min(images, (group + 1) * GROUP)):
        queried = load_head(q + image * q_image + head * WIDTH, first, queries, q_pixel, WIDTH, ROWS, DEPTH)
        keyed = load_head(kv + image * kv_image + head * WIDTH, 0, keys, kv_pixel, WIDTH, KEYS, DEPTH)
        values = load_head(kv + image * kv_image + channels + head * WIDTH, 0, keys, kv_pixel, WIDTH, KEYS, DEPTH)
        scores = product(queried, tl.trans(keyed), PRECISION) * (scale * LOG2E) + biases
        powers = tl.exp2(scores - tl.max(scores, 1)[:, None])
        mixed = product(powers.to(values.dtype), values, PRECISION) / tl.sum(powers, 1)[:, None]
        store_head(out + image * queries * channels + head * WIDTH, mixed, first, queries, channels, WIDTH, ROWS, DEPTH)


@triton.jit
def of_queries(
    gradient, q, kv, bias, q_gradient, bias_gradient, images, queries, keys, channels, scale, g_image, g_pixel, q_image,
    q_pixel, kv_image, kv_pixel, GROUP, HEADS, OF_BIAS: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, VECTOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the queries, and of the bias summed over a group's images: (groups, heads, queries, keys).

    Grid: as of :func:`attend`. ``q_gradient`` is contiguous (images, queries, channels).
    """
    first, head, group = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    g_pixel, g_image = g_pixel // VECTOR * VECTOR, g_image // VECTOR * VECTOR
    q_pixel, kv_pixel, channels = (q_pixel // VECTOR * VECTOR, kv_pixel // VECTOR * VECTOR, channels // VECTOR * VECTOR)
    q_image, kv_image = q_image // VECTOR * VECTOR, kv_image // VECTOR * VECTOR
    biases = load_bias(bias + head.to(tl.int64) * queries * keys, first, 0, queries, keys, ROWS, KEYS)
    total = tl.zeros((ROWS, KEYS), tl.float32)
    for image in range(group * GROUP, min(images, (group + 1) * GROUP)):
        queried = load_head(q + image * q_image + head * WIDTH, first, queries, q_pixel, WIDTH, ROWS, DEPTH)
        keyed = load_head(kv + image * kv_image + head * WIDTH, 0, keys, kv_pixel, WIDTH, KEYS, DEPTH)
        scores = product(queried, tl.trans(keyed), PRECISION) * (scale * LOG2E) + biases
        powers = tl.exp2(scores - tl.max(scores, 1)[:, None])
        weights = powers / tl.sum(powers, 1)[:, None]
        wanted = load_head(gradient + image * g_image + head * WIDTH, first, queries, g_pixel, WIDTH, ROWS, DEPTH)
        values = load_head(kv + image * kv_image + channels + head * WIDTH, 0, keys, kv_pixel, WIDTH, KEYS, DEPTH)
        of_weights = product(wanted, tl.trans(values), PRECISION)
        of_scores = weights * (of_weights - tl.sum(weights * of_weights, 1)[:, None])
        total += of_scores
        back = product(of_scores.to(keyed.dtype), keyed, PRECISION) * scale
        store_head(
            q_gradient + image * queries * channels + head * WIDTH, back, first, queries, channels, WIDTH, ROWS, DEPTH
        )
    if OF_BIAS:
        row, column = first + tl.arange(0, ROWS), tl.arange(0, KEYS)
        inside = (row < queries)[:, None] & (column < keys)[None, :]
        part = bias_gradient + (group * HEADS + head) * queries * keys
        tl.store(part + row[:, None] * keys + column[None, :], total, mask=inside)


@triton.jit
def of_keys(
    gradient, q, kv, bias, kv_gradient, images, queries, keys, channels, scale, g_image, g_pixel, q_image, q_pixel,
    kv_image, kv_pixel, TILES, WIDTH: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    VECTOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values, summed over TILES tiles of queries: (parts, images, keys, 2 channels), contiguous.

    Grid: images, heads, parts. Scores are computed transposed, (keys, queries).
    """
    image, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    g_pixel, g_image = g_pixel // VECTOR * VECTOR, g_image // VECTOR * VECTOR
    q_pixel, kv_pixel, channels = (q_pixel // VECTOR * VECTOR, kv_pixel // VECTOR * VECTOR, channels // VECTOR * VECTOR)
    q_image, kv_image = q_image // VECTOR * VECTOR, kv_image // VECTOR * VECTOR
    keyed = load_head(kv + image * kv_image + head * WIDTH, 0, keys, kv_pixel, WIDTH, KEYS, DEPTH)
    values = load_head(kv + image * kv_image + channels + head * WIDTH, 0, keys, kv_pixel, WIDTH, KEYS, DEPTH)
    key_total, value_total = tl.zeros((KEYS, DEPTH), tl.float32), tl.zeros((KEYS, DEPTH), tl.float32)
    of_head = bias + head.to(tl.int64) * queries * keys
    for tile in range(part * TILES, min(tl.cdiv(queries, ROWS), (part + 1) * TILES)):
        first = tile * ROWS
        queried = load_head(q + image * q_image + head * WIDTH, first, queries, q_pixel, WIDTH, ROWS, DEPTH)
        wanted = load_head(gradient + image * g_image + head * WIDTH, first, queries, g_pixel, WIDTH, ROWS, DEPTH)
        biases = tl.trans(load_bias(of_head, first, 0, queries, keys, ROWS, KEYS))
        scores = product(keyed, tl.trans(queried), PRECISION) * (scale * LOG2E) + biases
        powers = tl.exp2(scores - tl.max(scores, 0)[None, :])
        weights = powers / tl.sum(powers, 0)[None, :]
        of_weights = product(values, tl.trans(wanted), PRECISION)
        of_scores = weights * (of_weights - tl.sum(weights * of_weights, 0)[None, :])
        value_total += product(weights.to(wanted.dtype), wanted, PRECISION)
        key_total += product(of_scores.to(queried.dtype), queried, PRECISION)
    at = kv_gradient + (part.to(tl.int64) * images + image) * keys * 2 * channels + head * WIDTH
    store_head(at, key_total * scale, 0, keys, 2 * channels, WIDTH, KEYS, DEPTH)
    store_head(at + channels, value_total, 0, keys, 2 * channels, WIDTH, KEYS, DEPTH)
