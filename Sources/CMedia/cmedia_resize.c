// Antialiased bicubic resampling of 8-bit RGB.
//
// libvips' own resizing was measured against Pillow's first (8.14 against Pillow 13): up to 12 levels apart when
// shrinking noise (positions are rounded to 1/64 pixel) and up to 177 when enlarging (another convention for the
// borders and the centre), so pictures would not reach a vision tower as its reference processor sends them. This is
// Pillow's convention, and its result bit for bit:
//
//   scale = in / out,  support = 2 max(scale, 1),  centre of output i = (i + 1/2) scale
//   taps  = the input pixels whose centres lie within the support, cut off at the borders
//   weight = cubic(a = -1/2)((x + 1/2 - centre) / max(scale, 1)), normalised to sum 1, as integers of 22 bits
//   two passes, each rounded and clamped to 8 bits; an axis that keeps its size is left alone
//   along the rows first, unless the height shrinks by more than twice what the width does (as of Pillow 13; older
//   versions always begin with the rows, which differs by a few levels beside hard edges)
//
// A weight w is kept as two 16-bit halves, w = high * 2048 + low, so that compilers make 16-bit multiply-add
// instructions of the inner loops while the sum stays exact.

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cmedia_message.h"

enum {
  kPrecision = 22,
  kHalf = 11,
  kFew = 12,
  kBlock = 2048,  ///< this many low halves times 255 cannot overflow 32 bits; then they are carried over
};

/// Pixels a side; keeps every product below far from overflow.
static const int64_t kMaxSide = 1 << 24;

typedef struct {
  int64_t taps;     ///< room for each output's weights
  int64_t *first;   ///< index of the first input pixel
  int64_t *count;   ///< how many pixels follow from there
  int16_t *high;    ///< [outputs, taps]
  int16_t *low;     ///< [outputs, taps]
} weights;

static void free_weights(weights *w) {
  free(w->first);
  free(w->count);
  free(w->high);
  free(w->low);
  memset(w, 0, sizeof *w);
}

/// Keys' cubic convolution kernel with a = -1/2.
static double cubic(double x) {
  x = fabs(x);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
  if (x < 2.0) return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0;
  return 0.0;
}

static cm_status make_weights(int64_t in, int64_t out, weights *w) {
  memset(w, 0, sizeof *w);
  double scale = (double)in / (double)out;
  double widening = scale < 1.0 ? 1.0 : scale;
  double support = 2.0 * widening;
  int64_t taps = (int64_t)ceil(support) * 2 + 1;
  double *exact = malloc((size_t)taps * sizeof *exact);
  w->taps = taps;
  w->first = malloc((size_t)out * sizeof *w->first);
  w->count = malloc((size_t)out * sizeof *w->count);
  w->high = calloc((size_t)out * (size_t)taps, sizeof *w->high);
  w->low = calloc((size_t)out * (size_t)taps, sizeof *w->low);
  if (!exact || !w->first || !w->count || !w->high || !w->low) {
    free(exact);
    free_weights(w);
    return cm_fail(
      CM_NO_MEMORY, "no memory for the weights of a resize from %lld to %lld", (long long)in, (long long)out);
  }
  for (int64_t i = 0; i < out; i++) {
    double centre = ((double)i + 0.5) * scale;
    int64_t begin = (int64_t)(centre - support + 0.5);
    int64_t end = (int64_t)(centre + support + 0.5);
    if (centre - support + 0.5 < 0.0) begin = 0;
    if (end > in) end = in;
    int64_t count = end - begin;
    double sum = 0.0;
    for (int64_t k = 0; k < count; k++) {
      exact[k] = cubic(((double)(begin + k) - centre + 0.5) * (1.0 / widening));
      sum += exact[k];
    }
    for (int64_t k = 0; k < count; k++) {
      double weight = sum != 0.0 ? exact[k] / sum : exact[k];
      // Round half away from zero.
      int32_t fixed = (int32_t)(weight * (1 << kPrecision) + (weight < 0.0 ? -0.5 : 0.5));
      int32_t high = (fixed >= 0 ? fixed : fixed - ((1 << kHalf) - 1)) / (1 << kHalf);
      w->high[i * taps + k] = (int16_t)high;
      w->low[i * taps + k] = (int16_t)(fixed - high * (1 << kHalf));
    }
    w->first[i] = begin;
    w->count[i] = count;
  }
  free(exact);
  return CM_OK;
}

/// The weighted sum, rounded to a level and clamped to 0 ... 255.
static inline uint8_t level(int32_t high, int32_t low) {
  int64_t sum = (int64_t)high * (1 << kHalf) + low + (1 << (kPrecision - 1));
  if (sum < 0) return 0;
  sum >>= kPrecision;
  return sum > 255 ? 255 : (uint8_t)sum;
}

/// One row, [width, 3] to [outputs, 3]. `planes` has room for `width * 3` values.
static void resample_row(
  const uint8_t *restrict row, int64_t width, const weights *w, int64_t outputs, int16_t *restrict planes,
  uint8_t *restrict result) {
  int16_t *restrict red = planes, *restrict green = planes + width, *restrict blue = planes + 2 * width;
  for (int64_t x = 0; x < width; x++) {
    red[x] = row[3 * x];
    green[x] = row[3 * x + 1];
    blue[x] = row[3 * x + 2];
  }
  for (int64_t i = 0; i < outputs; i++) {
    const int16_t *high = w->high + i * w->taps, *low = w->low + i * w->taps;
    int64_t count = w->count[i];
    if (count <= kFew) {
      // Too few taps for wide instructions: the pixel's channels side by side, weights made whole again.
      const uint8_t *pixel = row + 3 * w->first[i];
      int32_t sum[3] = {0, 0, 0};
      for (int64_t k = 0; k < count; k++, pixel += 3) {
        int32_t weight = (int32_t)high[k] * (1 << kHalf) + low[k];
        sum[0] += weight * pixel[0];
        sum[1] += weight * pixel[1];
        sum[2] += weight * pixel[2];
      }
      for (int channel = 0; channel < 3; channel++) result[3 * i + channel] = level(0, sum[channel]);
      continue;
    }
    for (int channel = 0; channel < 3; channel++) {
      const int16_t *values = planes + channel * width + w->first[i];
      int32_t high_sum = 0, low_sum = 0;
      for (int64_t block = 0; block < count; block += kBlock) {
        int64_t end = count - block < kBlock ? count : block + kBlock;
        for (int64_t k = block; k < end; k++) {
          high_sum += (int32_t)high[k] * (int32_t)values[k];
          low_sum += (int32_t)low[k] * (int32_t)values[k];
        }
        high_sum += low_sum >> kHalf;
        low_sum &= (1 << kHalf) - 1;
      }
      result[3 * i + channel] = level(high_sum, low_sum);
    }
  }
}

/// One output row from `count` input rows of `stride` bytes each. The sums have room for `stride` values each.
static void resample_column(
  const uint8_t *restrict rows, int64_t stride, const int16_t *high, const int16_t *low, int64_t count,
  int32_t *restrict high_sums, int32_t *restrict low_sums, uint8_t *restrict result) {
  memset(high_sums, 0, (size_t)stride * sizeof *high_sums);
  memset(low_sums, 0, (size_t)stride * sizeof *low_sums);
  for (int64_t k = 0; k < count; k++) {
    const uint8_t *restrict row = rows + k * stride;
    int16_t h = high[k], l = low[k];
    for (int64_t x = 0; x < stride; x++) {
      int16_t value = row[x];
      high_sums[x] += (int32_t)h * (int32_t)value;
      low_sums[x] += (int32_t)l * (int32_t)value;
    }
    if (k % kBlock == kBlock - 1) {
      for (int64_t x = 0; x < stride; x++) {
        high_sums[x] += low_sums[x] >> kHalf;
        low_sums[x] &= (1 << kHalf) - 1;
      }
    }
  }
  for (int64_t x = 0; x < stride; x++) result[x] = level(high_sums[x], low_sums[x]);
}

/// [height, width, 3] to [height, new_width, 3].
static cm_status along_rows(
  const uint8_t *source, int64_t width, int64_t height, int64_t new_width, uint8_t *destination) {
  weights w;
  cm_status status = make_weights(width, new_width, &w);
  if (status != CM_OK) return status;
  int16_t *planes = malloc((size_t)width * 3 * sizeof *planes);
  if (planes == NULL) {
    free_weights(&w);
    return cm_fail(CM_NO_MEMORY, "no memory to resize rows of %lld pixels", (long long)width);
  }
  for (int64_t y = 0; y < height; y++) {
    resample_row(source + y * width * 3, width, &w, new_width, planes, destination + y * new_width * 3);
  }
  free(planes);
  free_weights(&w);
  return CM_OK;
}

/// [height, width, 3] to [new_height, width, 3].
static cm_status along_columns(
  const uint8_t *source, int64_t width, int64_t height, int64_t new_height, uint8_t *destination) {
  weights w;
  cm_status status = make_weights(height, new_height, &w);
  if (status != CM_OK) return status;
  int64_t stride = width * 3;
  int32_t *sums = malloc((size_t)stride * 2 * sizeof *sums);
  if (sums == NULL) {
    free_weights(&w);
    return cm_fail(CM_NO_MEMORY, "no memory to resize columns of %lld pixels", (long long)height);
  }
  for (int64_t y = 0; y < new_height; y++) {
    const int16_t *high = w.high + y * w.taps, *low = w.low + y * w.taps;
    resample_column(
      source + w.first[y] * stride, stride, high, low, w.count[y], sums, sums + stride, destination + y * stride);
  }
  free(sums);
  free_weights(&w);
  return CM_OK;
}

cm_status cm_resize_bicubic(
  const uint8_t *source, int64_t width, int64_t height, uint8_t *destination, int64_t new_width, int64_t new_height) {
  if (width < 1 || height < 1 || new_width < 1 || new_height < 1 || width > kMaxSide || height > kMaxSide ||
      new_width > kMaxSide || new_height > kMaxSide) {
    return cm_fail(
      CM_BAD_ARGUMENT, "sides must be 1 to %lld pixels: %lld x %lld to %lld x %lld", (long long)kMaxSide,
      (long long)width, (long long)height, (long long)new_width, (long long)new_height);
  }
  int both = new_width != width && new_height != height;
  if (!both) {
    if (new_width != width) return along_rows(source, width, height, new_width, destination);
    if (new_height != height) return along_columns(source, width, height, new_height, destination);
    memcpy(destination, source, (size_t)width * 3 * (size_t)height);
    return CM_OK;
  }
  int columns_first = height > new_height && height - new_height > 2 * (width - new_width);
  int64_t middle_width = columns_first ? width : new_width, middle_height = columns_first ? new_height : height;
  uint8_t *middle = malloc((size_t)middle_width * 3 * (size_t)middle_height);
  if (middle == NULL) {
    return cm_fail(CM_NO_MEMORY, "no memory to resize %lld x %lld", (long long)width, (long long)height);
  }
  cm_status status;
  if (columns_first) {
    status = along_columns(source, width, height, new_height, middle);
    if (status == CM_OK) status = along_rows(middle, width, new_height, new_width, destination);
  } else {
    status = along_rows(source, width, height, new_width, middle);
    if (status == CM_OK) status = along_columns(middle, new_width, height, new_height, destination);
  }
  free(middle);
  return status;
}
