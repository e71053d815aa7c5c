// Animated GIF and WebP through libvips: all pages are one tall picture, read from top to bottom, one page at a time.

#include <stdlib.h>
#include <string.h>

#include "cmedia_moving.h"
#include "cmedia_stills.h"

typedef struct {
  cm_still_format format;
  const uint8_t *bytes;
  size_t count;
  VipsImage *tall;
  int width, height, pages;
  int next;  ///< the first page that was not read yet
} animation;

static VipsImage *open_pages(cm_still_format format, const uint8_t *bytes, size_t count, int pages) {
  VipsImage *image = NULL;
  void *data = (void *)bytes;
  int bad = -1;
#define OPEN(load)                                                                                              \
  load(                                                                                                         \
    data, count, &image, "access", VIPS_ACCESS_SEQUENTIAL, "fail_on", VIPS_FAIL_ON_TRUNCATED, "n", pages, (void *)NULL)
  if (format == CM_STILL_GIF) bad = OPEN(vips_gifload_buffer);
  if (format == CM_STILL_WEBP) bad = OPEN(vips_webpload_buffer);
#undef OPEN
  return bad ? NULL : image;
}

static cm_status attempt_to_open(animation *a, int64_t max_pixels, int32_t max_pages, int64_t *width, int64_t *height) {
  // One page first: its header says how many there are, and how large the tall picture would be.
  VipsImage *one = open_pages(a->format, a->bytes, a->count, 1);
  if (one == NULL) return CM_BAD_DATA;
  a->pages = vips_image_get_n_pages(one);
  *width = a->width = one->Xsize;
  *height = a->height = one->Ysize;
  g_object_unref(one);
  if (*width * *height > max_pixels || a->pages > max_pages) return CM_TOO_LARGE;
  if ((int64_t)a->pages * a->height > VIPS_MAX_COORD) return CM_TOO_LARGE;
  a->tall = open_pages(a->format, a->bytes, a->count, -1);
  if (a->tall == NULL) return CM_BAD_DATA;
  if (a->tall->Xsize != a->width || (int64_t)a->tall->Ysize != (int64_t)a->pages * a->height) {
    vips_error("pages", "%d x %d pixels for %d pages", a->tall->Xsize, a->tall->Ysize, a->pages);
    return CM_BAD_DATA;
  }
  return CM_OK;
}

cm_status cm_animation_open(
  cm_still_format format, const uint8_t *bytes, size_t count, int64_t max_pixels, int32_t max_pages,
  cm_animation *result, int32_t *pages, int64_t *width, int64_t *height) {
  result->ctx = NULL;
  *pages = 0;
  *width = *height = 0;
  cm_status status = cm_vips_ready();
  if (status != CM_OK) return status;
  if (format != CM_STILL_GIF && format != CM_STILL_WEBP) return cm_fail(CM_BAD_ARGUMENT, "only GIF and WebP move");
  animation *a = calloc(1, sizeof *a);
  if (a == NULL) return cm_fail(CM_NO_MEMORY, "no memory for an animation");
  a->format = format;
  a->bytes = bytes;
  a->count = count;
  cm_vips_enter(0);
  status = attempt_to_open(a, max_pixels, max_pages, width, height);
  cm_vips_leave(0);
  if (status == CM_BAD_DATA) {
    cm_vips_enter(1);
    vips_error_clear();
    if (a->tall) g_object_unref(a->tall);
    a->tall = NULL;
    status = attempt_to_open(a, max_pixels, max_pages, width, height);
    if (status == CM_BAD_DATA) cm_vips_quote();
    cm_vips_leave(1);
  }
  if (status == CM_TOO_LARGE) {
    cm_fail(status, "%d pages of %lld x %lld pixels", a->pages, (long long)*width, (long long)*height);
  }
  *pages = a->pages;
  vips_thread_shutdown();
  if (status != CM_OK) {
    if (a->tall) g_object_unref(a->tall);
    free(a);
    return status;
  }
  result->ctx = a;
  return CM_OK;
}

cm_status cm_animation_delays(cm_animation handle, int32_t *delays, int32_t pages) {
  const animation *a = handle.ctx;
  if (a == NULL || pages != a->pages) return cm_fail(CM_BAD_ARGUMENT, "%d delays", pages);
  int *found = NULL, count = 0;
  memset(delays, 0, (size_t)pages * sizeof *delays);
  if (vips_image_get_typeof(a->tall, "delay") == 0) return CM_OK;
  if (vips_image_get_array_int(a->tall, "delay", &found, &count) != 0) {
    vips_error_clear();
    return CM_OK;
  }
  for (int i = 0; i < pages && i < count; i++) delays[i] = found[i];
  return CM_OK;
}

static int decode_page(animation *a, int page, cm_picture *result) {
  VipsImage *part = NULL;
  if (vips_crop(a->tall, &part, 0, page * a->height, a->width, a->height, (void *)NULL) != 0) return -1;
  int bad = cm_vips_decode(part, result);
  g_object_unref(part);
  return bad;
}

cm_status cm_animation_copy(cm_animation handle, int32_t page, uint8_t *rgb, size_t count) {
  animation *a = handle.ctx;
  if (a == NULL || page < a->next || page >= a->pages) return cm_fail(CM_BAD_ARGUMENT, "page %d", page);
  cm_picture *picture = calloc(1, sizeof *picture);
  if (picture == NULL) return cm_fail(CM_NO_MEMORY, "no memory for a picture");
  cm_vips_enter(0);
  int bad = decode_page(a, page, picture);
  cm_vips_leave(0);
  a->next = page + 1;
  cm_status status = CM_OK;
  if (bad) {
    // Again from the beginning, alone, so that the words are this file's.
    cm_vips_enter(1);
    vips_error_clear();
    g_free(picture->pixels);
    memset(picture, 0, sizeof *picture);
    g_object_unref(a->tall);
    a->tall = open_pages(a->format, a->bytes, a->count, -1);
    status = a->tall == NULL || decode_page(a, page, picture) != 0 ? cm_vips_quote() : CM_OK;
    if (a->tall == NULL) a->pages = 0;
    cm_vips_leave(1);
  }
  vips_thread_shutdown();
  cm_still still = {picture};
  picture->orientation = 1;
  if (status == CM_OK) status = cm_still_copy(still, rgb, count);
  cm_still_free(still);
  return status;
}

void cm_animation_close(cm_animation handle) {
  animation *a = handle.ctx;
  if (a == NULL) return;
  if (a->tall) g_object_unref(a->tall);
  free(a);
}
