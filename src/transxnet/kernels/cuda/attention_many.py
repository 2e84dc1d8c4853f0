"""Attention to many keys in Triton, a block of keys at a time, with a whole or a factored bias.

With a factored bias (STORED > 0) the scores are the sum of two products, q k^T and rows columns^T: no map of all
queries and keys is in memory; the factors have the maps' type. With a whole one (STORED = 0) its tiles are read. As in
:mod:`~transxnet.kernels.cuda.attention_few` heads are padded in registers, and each value is written by one program.
"""

from __future__ import annotations

import triton
import triton.language as tl

from transxnet.kernels.cuda.attention_few import LOG2E, load_bias, load_head, product, store_head


@triton.jit
def load_factor(factor, first, count, stored, rows: tl.constexpr, STORED: tl.constexpr):
    """Some of a factor's rows (rows, STORED) from ``first``; with a whole bias a number that is not used."""
    return 0 if STORED == 0 else load_head(factor, first, count, stored, stored, rows, STORED)


@triton.jit
def scores_of(
    queried, keyed, rows, columns, bias, head, first, start, queries, keys, scale, ROWS: tl.constexpr,
    KEYS: tl.constexpr, STORED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores (ROWS, KEYS) with the bias in units of log 2, -inf beyond the keys."""
    scores = product(queried, tl.trans(keyed), PRECISION) * (scale * LOG2E)
    if STORED == 0:
        scores += load_bias(bias + head.to(tl.int64) * queries * keys, first, start, queries, keys, ROWS, KEYS)
    else:
        added = product(rows, tl.trans(columns), PRECISION) * LOG2E
        scores = tl.where((start + tl.arange(0, KEYS) < keys)[None, :], scores + added, float("-inf"))
    return scores


@triton.jit
def attend(
    q, kv, bias, columns, out, images, queries, keys, channels, stored, scale, q_image, q_pixel, kv_image, kv_pixel,
    GROUP, WIDTH: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STORED: tl.constexpr,
    VECTOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of queries, heads, groups of images. ``out`` is contiguous (images, queries, channels)."""
    first, head, group = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    q_pixel, kv_pixel, channels = (q_pixel // VECTOR * VECTOR, kv_pixel // VECTOR * VECTOR, channels // VECTOR * VECTOR)
    q_image, kv_image = q_image // VECTOR * VECTOR, kv_image // VECTOR * VECTOR
    for image in range(group * GROUP, min(images, (group + 1) * GROUP)):
        queried = load_head(q + image * q_image + head * WIDTH, first, queries, q_pixel, WIDTH, ROWS, DEPTH)
        rows = load_factor(bias + head.to(tl.int64) * queries * stored, first, queries, stored, ROWS, STORED)
        largest = tl.full((ROWS,), float("-inf"), tl.float32)
        total, mixed = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS, DEPTH), tl.float32)
        of_image = kv + image * kv_image + head * WIDTH
        for start in range(0, keys, KEYS):
            keyed = load_head(of_image, start, keys, kv_pixel, WIDTH, KEYS, DEPTH)
            values = load_head(of_image + channels, start, keys, kv_pixel, WIDTH, KEYS, DEPTH)
            block = load_factor(columns, start, keys, stored, KEYS, STORED)
            scores = scores_of(
                queried, keyed, rows, block, bias, head, first, start, queries, keys, scale, ROWS, KEYS, STORED,
                PRECISION,
            )  # fmt: skip
            larger = tl.maximum(largest, tl.max(scores, 1))
            powers, factor = tl.exp2(scores - larger[:, None]), tl.exp2(largest - larger)
            total = total * factor + tl.sum(powers, 1)
            mixed = mixed * factor[:, None] + product(powers.to(values.dtype), values, PRECISION)
            largest = larger
        to = out + image * queries * channels + head * WIDTH
        store_head(to, mixed / total[:, None], first, queries, channels, WIDTH, ROWS, DEPTH)


@triton.jit
def logarithm_of(
    queried, of_image, rows, bias, columns, head, first, queries, keys, stored, scale, kv_pixel, WIDTH: tl.constexpr,
    DEPTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STORED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The logarithm, to base 2, of the sum of each query's powers."""
    largest, total = tl.full((ROWS,), float("-inf"), tl.float32), tl.zeros((ROWS,), tl.float32)
    for start in range(0, keys, KEYS):
        keyed = load_head(of_image, start, keys, kv_pixel, WIDTH, KEYS, DEPTH)
        block = load_factor(columns, start, keys, stored, KEYS, STORED)
        scores = scores_of(
            queried, keyed, rows, block, bias, head, first, start, queries, keys, scale, ROWS, KEYS, STORED, PRECISION
        )
        larger = tl.maximum(largest, tl.max(scores, 1))
        total = total * tl.exp2(largest - larger) + tl.sum(tl.exp2(scores - larger[:, None]), 1)
        largest = larger
    return largest + tl.log2(total)


@triton.jit
def of_queries(
    gradient, q, kv, bias, columns, out, q_gradient, rows_gradient, statistics, images, queries, keys, channels, stored,
    scale, g_image, g_pixel, q_image, q_pixel, kv_image, kv_pixel, GROUP, HEADS, OF_ROWS: tl.constexpr,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, STORED: tl.constexpr,
    VECTOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the queries, and of the bias's rows summed over a group's images: (groups, heads, queries, stored).

    Grid: as of :func:`attend`. ``out`` and ``q_gradient`` are contiguous (images, queries, channels). ``statistics``
    (images, heads, 2, queries) receives each query's logarithm of the sum of its powers, and what its weights'
    gradients lose by the softmax.
    """
    first, head, group = tl.program_id(0) * ROWS, tl.program_id(1), tl.program_id(2).to(tl.int64)
    g_pixel, g_image = g_pixel // VECTOR * VECTOR, g_image // VECTOR * VECTOR
    q_pixel, kv_pixel, channels = (q_pixel // VECTOR * VECTOR, kv_pixel // VECTOR * VECTOR, channels // VECTOR * VECTOR)
    q_image, kv_image = q_image // VECTOR * VECTOR, kv_image // VECTOR * VECTOR
    row = first + tl.arange(0, ROWS)
    if OF_ROWS:
        rows_total = tl.zeros((ROWS, STORED), tl.float32)
    for image in range(group * GROUP, min(images, (group + 1) * GROUP)):
        queried = load_head(q + image * q_image + head * WIDTH, first, queries, q_pixel, WIDTH, ROWS, DEPTH)
        rows = load_factor(bias + head.to(tl.int64) * queries * stored, first, queries, stored, ROWS, STORED)
        of_image = kv + image * kv_image + head * WIDTH
        logarithm = logarithm_of(
            queried, of_image, rows, bias, columns, head, first, queries, keys, stored, scale, kv_pixel, WIDTH, DEPTH,
            ROWS, KEYS, STORED, PRECISION,
        )  # fmt: skip
        at = image * queries * channels + head * WIDTH
        wanted = load_head(gradient + image * g_image + head * WIDTH, first, queries, g_pixel, WIDTH, ROWS, DEPTH)
        mixed = load_head(out + at, first, queries, channels, WIDTH, ROWS, DEPTH)
        lost = tl.sum(wanted.to(tl.float32) * mixed.to(tl.float32), 1)
        kept = statistics + (image * HEADS + head) * 2 * queries + row
        tl.store(kept, logarithm, mask=row < queries)
        tl.store(kept + queries, lost, mask=row < queries)
        back = tl.zeros((ROWS, DEPTH), tl.float32)
        for start in range(0, keys, KEYS):
            keyed = load_head(of_image, start, keys, kv_pixel, WIDTH, KEYS, DEPTH)
            values = load_head(of_image + channels, start, keys, kv_pixel, WIDTH, KEYS, DEPTH)
            block = load_factor(columns, start, keys, stored, KEYS, STORED)
            scores = scores_of(
                queried, keyed, rows, block, bias, head, first, start, queries, keys, scale, ROWS, KEYS, STORED,
                PRECISION,
            )  # fmt: skip
            of_weights = product(wanted, tl.trans(values), PRECISION)
            of_scores = tl.exp2(scores - logarithm[:, None]) * (of_weights - lost[:, None])
            back += product(of_scores.to(keyed.dtype), keyed, PRECISION)
            if OF_ROWS:
                rows_total += product(of_scores.to(keyed.dtype), block, PRECISION)
        store_head(q_gradient + at, back * scale, first, queries, channels, WIDTH, ROWS, DEPTH)
    if OF_ROWS:
        column = tl.arange(0, STORED)
        to = rows_gradient + (group * HEADS + head) * queries * stored
        inside = (row < queries)[:, None] & (column < stored)[None, :]
        tl.store(to + row[:, None] * stored + column[None, :], rows_total, mask=inside)


@triton.jit
def of_keys(
    gradient, q, kv, bias, columns, statistics, kv_gradient, images, queries, keys, channels, stored, scale, g_image,
    g_pixel, q_image, q_pixel, kv_image, kv_pixel, TILES, HEADS, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, STORED: tl.constexpr, VECTOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values, summed over TILES tiles of queries: (parts, images, keys, 2 channels), contiguous.

    Grid: blocks of keys of all images, heads, parts.
    """
    blocks = tl.cdiv(keys, KEYS)
    image, start = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * KEYS
    head, part = tl.program_id(1), tl.program_id(2)
    g_pixel, g_image = g_pixel // VECTOR * VECTOR, g_image // VECTOR * VECTOR
    q_pixel, kv_pixel, channels = (q_pixel // VECTOR * VECTOR, kv_pixel // VECTOR * VECTOR, channels // VECTOR * VECTOR)
    q_image, kv_image = q_image // VECTOR * VECTOR, kv_image // VECTOR * VECTOR
    of_image = kv + image * kv_image + head * WIDTH
    keyed = load_head(of_image, start, keys, kv_pixel, WIDTH, KEYS, DEPTH)
    values = load_head(of_image + channels, start, keys, kv_pixel, WIDTH, KEYS, DEPTH)
    block = load_factor(columns, start, keys, stored, KEYS, STORED)
    key_total, value_total = tl.zeros((KEYS, DEPTH), tl.float32), tl.zeros((KEYS, DEPTH), tl.float32)
    kept = statistics + (image * HEADS + head) * 2 * queries
    for tile in range(part * TILES, min(tl.cdiv(queries, ROWS), (part + 1) * TILES)):
        first = tile * ROWS
        row = first + tl.arange(0, ROWS)
        queried = load_head(q + image * q_image + head * WIDTH, first, queries, q_pixel, WIDTH, ROWS, DEPTH)
        wanted = load_head(gradient + image * g_image + head * WIDTH, first, queries, g_pixel, WIDTH, ROWS, DEPTH)
        logarithm = tl.load(kept + row, mask=row < queries, other=0.0)
        lost = tl.load(kept + queries + row, mask=row < queries, other=0.0)
        rows = load_factor(bias + head.to(tl.int64) * queries * stored, first, queries, stored, ROWS, STORED)
        scores = scores_of(
            queried, keyed, rows, block, bias, head, first, start, queries, keys, scale, ROWS, KEYS, STORED, PRECISION
        )
        weights = tl.exp2(scores - logarithm[:, None])
        of_weights = product(wanted, tl.trans(values), PRECISION)
        of_scores = weights * (of_weights - lost[:, None])
        value_total += product(tl.trans(weights.to(wanted.dtype)), wanted, PRECISION)
        key_total += product(tl.trans(of_scores.to(queried.dtype)), queried, PRECISION)
    at = kv_gradient + (part.to(tl.int64) * images + image) * keys * 2 * channels + head * WIDTH
    store_head(at, key_total * scale, start, keys, 2 * channels, WIDTH, KEYS, DEPTH)
    store_head(at + channels, value_total, start, keys, 2 * channels, WIDTH, KEYS, DEPTH)


@triton.jit
def of_bias(
    gradient, q, kv, bias, statistics, bias_gradient, images, queries, keys, channels, scale, g_image, g_pixel, q_image,
    q_pixel, kv_image, kv_pixel, GROUP, HEADS, WIDTH: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, STORED: tl.constexpr, VECTOR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of a whole bias summed over a group's images: (groups, heads, queries, keys).

    Grid: tiles of queries, blocks of keys of all heads, groups of images.
    """
    blocks = tl.cdiv(keys, KEYS)
    first, head, start = tl.program_id(0) * ROWS, tl.program_id(1) // blocks, tl.program_id(1) % blocks * KEYS
    group = tl.program_id(2).to(tl.int64)
    g_pixel, g_image = g_pixel // VECTOR * VECTOR, g_image // VECTOR * VECTOR
    q_pixel, kv_pixel, channels = (q_pixel // VECTOR * VECTOR, kv_pixel // VECTOR * VECTOR, channels // VECTOR * VECTOR)
    q_image, kv_image = q_image // VECTOR * VECTOR, kv_image // VECTOR * VECTOR
    row, column = first + tl.arange(0, ROWS), start + tl.arange(0, KEYS)
    total = tl.zeros((ROWS, KEYS), tl.float32)
    for image in range(group * GROUP, min(images, (group + 1) * GROUP)):
        queried = load_head(q + image * q_image + head * WIDTH, first, queries, q_pixel, WIDTH, ROWS, DEPTH)
        wanted = load_head(gradient + image * g_image + head * WIDTH, first, queries, g_pixel, WIDTH, ROWS, DEPTH)
        keyed = load_head(kv + image * kv_image + head * WIDTH, start, keys, kv_pixel, WIDTH, KEYS, DEPTH)
        values = load_head(kv + image * kv_image + channels + head * WIDTH, start, keys, kv_pixel, WIDTH, KEYS, DEPTH)
        scores = scores_of(
            queried, keyed, 0, 0, bias, head, first, start, queries, keys, scale, ROWS, KEYS, STORED, PRECISION
        )
        kept = statistics + (image * HEADS + head) * 2 * queries + row
        logarithm = tl.load(kept, mask=row < queries, other=0.0)
        lost = tl.load(kept + queries, mask=row < queries, other=0.0)
        of_weights = product(wanted, tl.trans(values), PRECISION)
        total += tl.exp2(scores - logarithm[:, None]) * (of_weights - lost[:, None])
    inside = (row < queries)[:, None] & (column < keys)[None, :]
    to = bias_gradient + (group * HEADS + head) * queries * keys
    tl.store(to + row[:, None] * keys + column[None, :], total, mask=inside)
