// A decoded picture to upright 8-bit RGB.

#include <libavutil/pixdesc.h>
#include <string.h>

#include "cmedia_moving_private.h"
#include "cmedia_orientation.h"

/// Prepares `m->scaler` for the frame: bicubic, chroma interpolated, exact rounding, matrix and range as the frame says
/// (BT.601 where it says nothing, as ffmpeg takes it).
static cm_status prepare_scaler(movie *m, const AVFrame *f, int width, int height) {
  int flags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP | SWS_BITEXACT;
  m->scaler = sws_getCachedContext(
    m->scaler, f->width, f->height, f->format, width, height, AV_PIX_FMT_RGB24, flags, NULL, NULL, NULL);
  if (m->scaler == NULL) {
    const char *name = av_get_pix_fmt_name(f->format);
    return cm_fail(
      CM_BAD_DATA, "no conversion from %s, %d x %d, to %d x %d", name ? name : "unknown pixels", f->width, f->height,
      width, height);
  }
  int *from, *to, from_full, to_full, brightness, contrast, saturation;
  if (sws_getColorspaceDetails(
        m->scaler, &from, &from_full, &to, &to_full, &brightness, &contrast, &saturation) >= 0) {
    if (f->color_range != AVCOL_RANGE_UNSPECIFIED) from_full = f->color_range == AVCOL_RANGE_JPEG;
    sws_setColorspaceDetails(
      m->scaler, sws_getCoefficients(f->colorspace), from_full, sws_getCoefficients(SWS_CS_DEFAULT), to_full,
      brightness, contrast, saturation);
  }
  return CM_OK;
}

cm_status cm_movie_copy(
  cm_movie handle, int earlier, int64_t width, int64_t height, uint8_t *rgb, size_t count) {
  movie *m = handle.ctx;
  if (m == NULL) return cm_fail(CM_BAD_ARGUMENT, "no movie");
  const AVFrame *f = earlier ? m->earlier : m->frame;
  if (f->data[0] == NULL) return cm_fail(CM_BAD_ARGUMENT, "no picture");
  if (m->orientation == 0) return cm_fail(CM_BAD_DATA, "a turn that is no multiple of 90 degrees");
  int64_t limit = m->limits.max_pixels;
  if (width < 1 || height < 1 || width > INT32_MAX || height > INT32_MAX || width * height > limit ||
      (int64_t)count != width * height * 3) {
    return cm_fail(CM_BAD_ARGUMENT, "%lld x %lld pixels in %zu bytes", (long long)width, (long long)height, count);
  }
  int turned = m->orientation >= 5;
  int stored_width = (int)(turned ? height : width), stored_height = (int)(turned ? width : height);
  cm_status status = prepare_scaler(m, f, stored_width, stored_height);
  if (status != CM_OK) return status;
  // The scaler may write past the end of a row: it gets rows of its own.
  AVFrame *converted = av_frame_alloc();
  if (converted == NULL) return cm_fail(CM_NO_MEMORY, "no memory for a picture");
  converted->format = AV_PIX_FMT_RGB24;
  converted->width = stored_width;
  converted->height = stored_height;
  int error = av_frame_get_buffer(converted, 0);
  if (error < 0) {
    av_frame_free(&converted);
    return cm_fail(CM_NO_MEMORY, "no memory for %d x %d pixels", stored_width, stored_height);
  }
  int rows = sws_scale(
    m->scaler, (const uint8_t *const *)f->data, f->linesize, 0, f->height, converted->data, converted->linesize);
  if (rows != stored_height) {
    status = cm_fail(CM_BAD_DATA, "%d rows converted, expected %d", rows, stored_height);
  } else {
    cm_steps steps = cm_orientation_steps(m->orientation, stored_width, stored_height, 3, converted->linesize[0]);
    for (int64_t y = 0; y < height; y++) {
      const uint8_t *from = converted->data[0] + steps.start + y * steps.below;
      if (steps.right == 3) {
        memcpy(rgb, from, (size_t)width * 3);
        rgb += width * 3;
      } else {
        for (int64_t x = 0; x < width; x++, from += steps.right, rgb += 3) memcpy(rgb, from, 3);
      }
    }
  }
  av_frame_free(&converted);
  return status;
}
