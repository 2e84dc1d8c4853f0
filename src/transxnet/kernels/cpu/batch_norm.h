// Batch normalisation in training, alone or combined with GELU, and its gradients.
//
// Maps are (rows, channels): every pixel of every image is a row. GELU's output is recomputed, which is faster than
// storing it.

#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "gelu.h"
#include "vectors.h"

enum class Gelu : int { kNone, kBefore, kAfter };  // none, or before or after the normalisation

// y = (g(x) - mean) * factor * weight + bias, or g of y.
struct BatchNorm {
  int64_t rows, channels;
  const float* in;
  double *means, *factors;  // of each channel; a factor is the reciprocal of a deviation
  const float *weight, *bias;
};

constexpr int64_t kPiece = 32;  // rows summed in float32; larger sums are in float64

// Shares of a map's rows, in whole pieces and independent of the number of threads.
struct Shares {
  int64_t rows, step, count;
  explicit Shares(int64_t rows) : rows(rows) {
    step = std::max<int64_t>(4 * kPiece, (rows + 255) / 256);
    step = (step + kPiece - 1) / kPiece * kPiece;
    count = (rows + step - 1) / step;
  }
  int64_t first(int64_t share) const { return share * step; }
  int64_t last(int64_t share) const { return std::min(rows, (share + 1) * step); }
};

// Calls visit(number, channel, count, skipped) for all channels, number * 16 at a time. The last sixteen begin with
// `skipped` channels that were visited before; if there are fewer than sixteen in all, `count` is their number.
template <class Visit>
ALWAYS_INLINE void for_channels(int64_t channels, const Visit& visit) {
  constexpr std::integral_constant<int, 1> one;
  int64_t channel = 0;
  for (; channel + 4 * kLanes <= channels; channel += 4 * kLanes)
    visit(std::integral_constant<int, 4>{}, channel, kLanes, 0);
  for (; channel + kLanes <= channels; channel += kLanes) visit(one, channel, kLanes, 0);
  if (channel == channels) return;
  if (channels < kLanes) return visit(one, channel, static_cast<int>(channels), 0);
  visit(one, channels - kLanes, kLanes, static_cast<int>(channel - (channels - kLanes)));
}

// Merges a piece's mean and sum of squared deviations into those of `seen` values. Its sums are of differences to
// `first`, one of its values, so that they stay precise for large means, and exact if all values are equal.
inline void add_piece(const float* first, const float* sums, const float* squares, int64_t size, int64_t seen,
                      int skipped, int count, double* mean, double* around) {
  const double share = static_cast<double>(size) / static_cast<double>(seen + size);
  for (int i = skipped; i < count; ++i) {
    const double off = sums[i] / static_cast<double>(size), own = squares[i] - off * sums[i];
    const double apart = first[i] + off - mean[i];
    mean[i] += apart * share;
    around[i] += (own < 0 ? 0 : own) + apart * apart * share * static_cast<double>(seen);
  }
}

// Means and sums of squared deviations of each channel, (channels), over rows `first` to `last`.
template <Gelu kGelu>
void share_statistics(const BatchNorm& job, int64_t first, int64_t last, double* means, double* around) {
  for (int64_t begin = first; begin < last; begin += kPiece) {
    const int64_t size = std::min(last - begin, kPiece);
    for_channels(job.channels, [&](auto number, int64_t channel, int count, int skipped) ALWAYS_INLINE_LAMBDA {
      constexpr int kNumber = decltype(number)::value;
      const float* from = job.in + begin * job.channels + channel;
      const auto value = [&](int i) ALWAYS_INLINE_LAMBDA {
        const Vec x = load_some(from + i * kLanes, count);
        return kGelu == Gelu::kBefore ? fine_gelu(x) : x;
      };
      Vec origin[kNumber], sums[kNumber], squares[kNumber];
#pragma GCC unroll 4
      for (int i = 0; i < kNumber; ++i) {
        origin[i] = value(i);
        sums[i] = squares[i] = Vec{};
      }
      for (int64_t row = 1; row < size; ++row) {
        from += job.channels;
#pragma GCC unroll 4
        for (int i = 0; i < kNumber; ++i) {
          const Vec difference = value(i) - origin[i];
          sums[i] += difference;
          squares[i] += difference * difference;
        }
      }
      for (int i = 0; i < kNumber; ++i) {
        float parts[3][kLanes];
        store(parts[0], origin[i]);
        store(parts[1], sums[i]);
        store(parts[2], squares[i]);
        const int64_t index = channel + i * kLanes;
        add_piece(parts[0], parts[1], parts[2], size, begin - first, skipped, count, means + index,
                  around + index);
      }
    });
  }
}

// Means and factors, and updates of the running statistics, (channels), if there are any, with a share `momentum` of
// the batch's; the running variance is unbiased.
template <Gelu kGelu>
void batch_statistics(const BatchNorm& job, double epsilon, double momentum, float* running_means,
                      float* running_variances, int threads) {
  const Shares shares(job.rows);
  std::vector<double> means(shares.count * job.channels), around(shares.count * job.channels);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t share = 0; share < shares.count; ++share)
    share_statistics<kGelu>(job, shares.first(share), shares.last(share), &means[share * job.channels],
                            &around[share * job.channels]);
  for (int64_t share = 1; share < shares.count; ++share) {
    const double size = static_cast<double>(shares.last(share) - shares.first(share));
    const double seen = static_cast<double>(shares.first(share));
    for (int64_t channel = 0; channel < job.channels; ++channel) {
      const double apart = means[share * job.channels + channel] - means[channel];
      means[channel] += apart * size / (seen + size);
      around[channel] += around[share * job.channels + channel] + apart * apart * size * seen / (seen + size);
    }
  }
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    job.means[channel] = means[channel];
    job.factors[channel] = 1.0 / std::sqrt(around[channel] / static_cast<double>(job.rows) + epsilon);
    if (!running_means) continue;
    const double variance = around[channel] / static_cast<double>(job.rows - 1);
    running_means[channel] = static_cast<float>(momentum * means[channel] + (1 - momentum) * running_means[channel]);
    running_variances[channel] = static_cast<float>(momentum * variance + (1 - momentum) * running_variances[channel]);
  }
}

// (x - mean) * scale + shift with the mean rounded to float32, and its rounding error in the shift.
struct Affine {
  std::vector<float> means, scales, shifts;
  explicit Affine(const BatchNorm& job) : means(job.channels), scales(job.channels), shifts(job.channels) {
    for (int64_t i = 0; i < job.channels; ++i) {
      const double scale = job.factors[i] * job.weight[i];
      means[i] = static_cast<float>(job.means[i]);
      scales[i] = static_cast<float>(scale);
      shifts[i] = static_cast<float>(job.bias[i] - (job.means[i] - means[i]) * scale);
    }
  }
  ALWAYS_INLINE Vec operator()(Vec x, int64_t channel, int count) const {
    return (x - load_some(&means[channel], count)) * load_some(&scales[channel], count) +
           load_some(&shifts[channel], count);
  }
};

// Calls step(index, channel, count) for every sixteen channels of all rows, the last ones as in for_channels().
template <class Step>
void for_rows(int64_t rows, int64_t channels, const Step& step, int threads) {
  const int64_t some = std::max<int64_t>(1, 16384 / channels);
#pragma omp parallel for num_threads(threads)
  for (int64_t begin = 0; begin < rows; begin += some)
    for (int64_t row = begin; row < std::min(rows, begin + some); ++row) {
      int64_t channel = 0;
      for (; channel + kLanes <= channels; channel += kLanes) step(row * channels + channel, channel, kLanes);
      if (channel == channels) continue;
      if (channels < kLanes) step(row * channels, 0, static_cast<int>(channels));
      else step((row + 1) * channels - kLanes, channels - kLanes, kLanes);
    }
}

template <Gelu kGelu>
void normalise(const BatchNorm& job, float* out, int threads) {
  const Affine affine(job);
  for_rows(
      job.rows, job.channels,
      [&](int64_t index, int64_t channel, int count) ALWAYS_INLINE_LAMBDA {
        Vec value = load_some(job.in + index, count);
        if (kGelu == Gelu::kBefore) value = fine_gelu(value);
        value = affine(value, channel, count);
        if (kGelu == Gelu::kAfter) value = fine_gelu(value);
        store_some(out + index, value, count);
      },
      threads);
}

// The gradient of the normalisation's output, through a GELU after it.
template <Gelu kGelu>
ALWAYS_INLINE Vec inner_gradient(Vec gradient, Vec x, const Affine& affine, int64_t channel, int count) {
  return kGelu == Gelu::kAfter ? gradient * gelu_derivative(affine(x, channel, count)) : gradient;
}

// Sums, (channels), of the gradient of the normalisation's output and of its products with g(x) - mean, over rows
// `first` to `last`.
template <Gelu kGelu>
void share_gradients(const BatchNorm& job, const Affine& affine, const float* gradient, int64_t first, int64_t last,
                     double* sums, double* products) {
  for (int64_t begin = first; begin < last; begin += kPiece) {
    const int64_t end = std::min(last, begin + kPiece);
    for_channels(job.channels, [&](auto number, int64_t channel, int count, int skipped) ALWAYS_INLINE_LAMBDA {
      constexpr int kNumber = decltype(number)::value;
      Vec sum[kNumber] = {}, product[kNumber] = {};
      for (int64_t row = begin; row < end; ++row)
#pragma GCC unroll 4
        for (int i = 0; i < kNumber; ++i) {
          const int64_t column = channel + i * kLanes, index = row * job.channels + column;
          Vec x = load_some(job.in + index, count);
          const Vec inner = inner_gradient<kGelu>(load_some(gradient + index, count), x, affine, column, count);
          if (kGelu == Gelu::kBefore) x = fine_gelu(x);
          sum[i] += inner;
          product[i] += inner * (x - load_some(&affine.means[column], count));
        }
      for (int i = 0; i < kNumber; ++i)
        for (int lane = skipped; lane < count; ++lane) {
          sums[channel + i * kLanes + lane] += sum[i][lane];
          products[channel + i * kLanes + lane] += product[i][lane];
        }
    });
  }
}

// The gradients of weight and bias, (channels), and of the input, (rows, channels), if requested.
template <Gelu kGelu>
void batch_norm_gradients(const BatchNorm& job, const float* gradient, float* in_gradient, float* weight_gradient,
                          float* bias_gradient, int threads) {
  const Affine affine(job);
  const int64_t channels = job.channels;
  const Shares shares(job.rows);
  std::vector<double> sums(shares.count * channels), products(shares.count * channels);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t share = 0; share < shares.count; ++share)
    share_gradients<kGelu>(job, affine, gradient, shares.first(share), shares.last(share), &sums[share * channels],
                           &products[share * channels]);
  std::vector<float> slopes(channels), offsets(channels);
  for (int64_t i = 0; i < channels; ++i) {
    for (int64_t share = 1; share < shares.count; ++share) {
      sums[i] += sums[share * channels + i];
      products[i] += products[share * channels + i];
    }
    const double lost = job.means[i] - affine.means[i], rows = static_cast<double>(job.rows);
    const double product = (products[i] - lost * sums[i]) * job.factors[i], scale = job.factors[i] * job.weight[i];
    const double slope = -scale * product * job.factors[i] / rows;
    weight_gradient[i] = static_cast<float>(product);
    bias_gradient[i] = static_cast<float>(sums[i]);
    slopes[i] = static_cast<float>(slope);
    offsets[i] = static_cast<float>(-scale * sums[i] / rows - slope * lost);
  }
  if (!in_gradient) return;
  for_rows(
      job.rows, channels,
      [&](int64_t index, int64_t channel, int count) ALWAYS_INLINE_LAMBDA {
        const Vec x = load_some(job.in + index, count);
        const Vec inner = inner_gradient<kGelu>(load_some(gradient + index, count), x, affine, channel, count);
        const Vec y = (kGelu == Gelu::kBefore ? fine_gelu(x) : x) - load_some(&affine.means[channel], count);
        Vec value = inner * load_some(&affine.scales[channel], count) +
                    (y * load_some(&slopes[channel], count) + load_some(&offsets[channel], count));
        if (kGelu == Gelu::kBefore) value *= gelu_derivative(x);
        store_some(in_gradient + index, value, count);
      },
      threads);
}

// Calls function(integral constant) for the position of GELU.
template <class Function>
void with_gelu(int order, const Function& function) {
  switch (static_cast<Gelu>(order)) {
    case Gelu::kNone: return function(std::integral_constant<Gelu, Gelu::kNone>{});
    case Gelu::kBefore: return function(std::integral_constant<Gelu, Gelu::kBefore>{});
    case Gelu::kAfter: return function(std::integral_constant<Gelu, Gelu::kAfter>{});
  }
}
