// Still pictures through libvips: only the six loaders named here, each asked for by name.

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cmedia_orientation.h"
#include "cmedia_stills.h"

// MARK: Setting up

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int usable = 0;

static void ignore_log(const gchar *domain, GLogLevelFlags flags, const gchar *text, gpointer data) {
  (void)domain, (void)flags, (void)text, (void)data;
}

static void set_up(void) {
  // A program's own choice about broken pipes is kept.
  struct sigaction before;
  int known = sigaction(SIGPIPE, NULL, &before) == 0;
  // What libvips would print belongs into our errors or nowhere.
  g_log_set_handler("VIPS", G_LOG_LEVEL_MASK | G_LOG_FLAG_RECURSION, ignore_log, NULL);
  if (vips_init("qformer") != 0) return;
  if (known) sigaction(SIGPIPE, &before, NULL);
  // Everything is forbidden, then six loaders are allowed. The second call is for what libvips calls untrusted beyond
  // loaders (and for the parts of the six that a later version may come to distrust).
  vips_operation_block_set("VipsForeignLoad", TRUE);
  static const char *const allowed[] = {
    "VipsForeignLoadJpeg", "VipsForeignLoadPng",  "VipsForeignLoadWebp",
    "VipsForeignLoadNsgif", "VipsForeignLoadTiff", "VipsForeignLoadHeif",
  };
  for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) vips_operation_block_set(allowed[i], FALSE);
  vips_block_untrusted_set(TRUE);
  // One picture is decoded once, by the thread that asks for it: nothing is kept and no pool is started.
  vips_concurrency_set(1);
  vips_cache_set_max(0);
  vips_cache_set_max_mem(0);
  vips_cache_set_max_files(0);
  usable = 1;
}

cm_status cm_vips_ready(void) {
  pthread_once(&once, set_up);
  if (usable) return CM_OK;
  return cm_fail(CM_NO_MEMORY, "libvips could not be initialised: %s", vips_error_buffer());
}

const char *cm_stills_version(void) { return vips_version_string(); }

// MARK: Errors
//
// libvips has one error text for the whole process. To quote it without mixing the words of two threads, a failed call
// is repeated while nothing else runs, and the text it leaves then is surely its own. Good calls never wait for each
// other.

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_changed = PTHREAD_COND_INITIALIZER;
static int gate_running = 0, gate_waiting = 0, gate_alone = 0;

void cm_vips_enter(int alone) {
  pthread_mutex_lock(&gate);
  if (alone) {
    gate_waiting++;
    while (gate_running > 0 || gate_alone) pthread_cond_wait(&gate_changed, &gate);
    gate_waiting--;
    gate_alone = 1;
  } else {
    while (gate_waiting > 0 || gate_alone) pthread_cond_wait(&gate_changed, &gate);
    gate_running++;
  }
  pthread_mutex_unlock(&gate);
}

void cm_vips_leave(int alone) {
  pthread_mutex_lock(&gate);
  if (alone) {
    gate_alone = 0;
  } else {
    gate_running--;
  }
  pthread_cond_broadcast(&gate_changed);
  pthread_mutex_unlock(&gate);
}

/// The first line of libvips' error text, which is emptied.
cm_status cm_vips_quote(void) {
  char *text = vips_error_buffer_copy();
  char *end = strchr(text, '\n');
  if (end != NULL) *end = 0;
  cm_status status = cm_fail(CM_BAD_DATA, "%s", *text ? text : "the decoder gave no reason");
  g_free(text);
  return status;
}

// MARK: Decoding

static VipsImage *open_header(cm_still_format format, const uint8_t *bytes, size_t count) {
  VipsImage *image = NULL;
  void *data = (void *)bytes;
  int bad = -1;
#define OPEN(load) \
  load(data, count, &image, "access", VIPS_ACCESS_SEQUENTIAL, "fail_on", VIPS_FAIL_ON_TRUNCATED, (void *)NULL)
  switch (format) {
    case CM_STILL_JPEG: bad = OPEN(vips_jpegload_buffer); break;
    case CM_STILL_PNG: bad = OPEN(vips_pngload_buffer); break;
    case CM_STILL_WEBP: bad = OPEN(vips_webpload_buffer); break;
    case CM_STILL_GIF: bad = OPEN(vips_gifload_buffer); break;
    case CM_STILL_TIFF: bad = OPEN(vips_tiffload_buffer); break;
    case CM_STILL_HEIF: bad = OPEN(vips_heifload_buffer); break;
  }
#undef OPEN
  return bad ? NULL : image;
}

/// Replaces `*image` by what an operation made of it when that went well: `step(&x, vips_op(x, &made, ...), &made)`.
static int step(VipsImage **image, int bad, VipsImage **made) {
  if (bad) return -1;
  g_object_unref(*image);
  *image = *made;
  *made = NULL;
  return 0;
}

static int is_float(VipsImage *image) { return vips_band_format_isfloat(vips_image_get_format(image)); }

/// Unsigned integers of 8, 16 or 32 bits to their upper 8 bits; floats count from 0 to 1.
static int to_levels(VipsImage **image) {
  VipsImage *made = NULL;
  switch (vips_image_get_format(*image)) {
    case VIPS_FORMAT_UCHAR: return 0;
    case VIPS_FORMAT_USHORT:
      if (step(image, vips_rshift_const1(*image, &made, 8, (void *)NULL), &made)) return -1;
      break;
    case VIPS_FORMAT_UINT:
      if (step(image, vips_rshift_const1(*image, &made, 24, (void *)NULL), &made)) return -1;
      break;
    case VIPS_FORMAT_FLOAT:
    case VIPS_FORMAT_DOUBLE:
      if (step(image, vips_linear1(*image, &made, 255.0, 0.5, (void *)NULL), &made)) return -1;
      break;
    default:
      vips_error(
        "sample format", "%s samples are not supported", vips_enum_nick(VIPS_TYPE_BAND_FORMAT, (*image)->BandFmt));
      return -1;
  }
  return step(image, vips_cast_uchar(*image, &made, (void *)NULL), &made);
}

static int icc(VipsImage *image, VipsImage **made) {
  return vips_icc_transform(
    image, made, "srgb", "embedded", TRUE, "intent", VIPS_INTENT_RELATIVE, "black_point_compensation", TRUE, "depth", 8,
    (void *)NULL);
}

/// Whether a grey or RGB profile is sRGB by another name: it moves no colour of a grid by more than two levels. Such
/// pictures keep their values untouched.
static int profile_changes_nothing(VipsImage *image, int colours) {
  enum { kSteps = 9 };
  uint8_t grid[kSteps * kSteps * kSteps * 3];
  int count = colours == 1 ? 256 : kSteps * kSteps * kSteps;
  for (int i = 0; i < count; i++) {
    if (colours == 1) {
      grid[i] = (uint8_t)i;
    } else {
      grid[3 * i] = (uint8_t)(i % kSteps * 255 / (kSteps - 1));
      grid[3 * i + 1] = (uint8_t)(i / kSteps % kSteps * 255 / (kSteps - 1));
      grid[3 * i + 2] = (uint8_t)(i / kSteps / kSteps * 255 / (kSteps - 1));
    }
  }
  const void *profile = NULL;
  size_t length = 0;
  if (vips_image_get_blob(image, VIPS_META_ICC_NAME, &profile, &length)) return 0;
  VipsImage *raw = vips_image_new_from_memory_copy(
    grid, (size_t)count * (size_t)colours, count, 1, colours, VIPS_FORMAT_UCHAR);
  if (raw == NULL) return 0;
  VipsImage *probe = NULL, *moved = NULL;
  int same = 0;
  if (vips_copy(
        raw, &probe, "interpretation", colours == 1 ? VIPS_INTERPRETATION_B_W : VIPS_INTERPRETATION_sRGB,
        (void *)NULL) == 0) {
    vips_image_set_blob_copy(probe, VIPS_META_ICC_NAME, profile, length);
    if (icc(probe, &moved) == 0 && moved->Bands == 3 && moved->BandFmt == VIPS_FORMAT_UCHAR) {
      size_t bytes = 0;
      uint8_t *result = vips_image_write_to_memory(moved, &bytes);
      same = result != NULL && bytes == (size_t)count * 3;
      for (int i = 0; same && i < count * 3; i++) {
        int original = colours == 1 ? grid[i / 3] : grid[i];
        if (abs(original - result[i]) > 2) same = 0;
      }
      g_free(result);
    }
  }
  if (moved) g_object_unref(moved);
  if (probe) g_object_unref(probe);
  g_object_unref(raw);
  return same;
}

/// Colour bands (no alpha) to 8-bit grey, RGB or, without a profile, CMYK.
static int colours_to_levels(VipsImage **image, cm_meaning *meaning) {
  VipsImage *made = NULL;
  VipsInterpretation space = vips_image_get_interpretation(*image);
  int bands = (*image)->Bands;
  int was_packed = (*image)->Coding == VIPS_CODING_LABQ;
  *meaning = PLAIN;
  switch (space) {
    case VIPS_INTERPRETATION_LAB:
    case VIPS_INTERPRETATION_LABQ:
    case VIPS_INTERPRETATION_LABS:
      // CIELAB in files is relative to D50, the white of ICC profiles; libvips' own conversion takes D65.
      if (step(image, vips_colourspace(*image, &made, VIPS_INTERPRETATION_LAB, (void *)NULL), &made)) return -1;
      if (was_packed) {
        // 8 bits of lightness were moved into the upper part of 10, so that white arrived at 1020 of 1023.
        double scale[3] = {1023.0 / 1020.0, 1.0, 1.0}, offset[3] = {0.0, 0.0, 0.0};
        if (step(image, vips_linear(*image, &made, scale, offset, 3, (void *)NULL), &made)) return -1;
      }
      vips_image_remove(*image, VIPS_META_ICC_NAME);
      if (vips_icc_export(
            *image, &made, "output_profile", "srgb", "intent", VIPS_INTENT_RELATIVE, "depth", 8, (void *)NULL)) {
        return -1;
      }
      step(image, 0, &made);
      return to_levels(image);
    case VIPS_INTERPRETATION_XYZ:
    case VIPS_INTERPRETATION_LCH:
    case VIPS_INTERPRETATION_YXY:
    case VIPS_INTERPRETATION_CMC:
      if (step(image, vips_colourspace(*image, &made, VIPS_INTERPRETATION_sRGB, (void *)NULL), &made)) return -1;
      return to_levels(image);
    default: break;
  }
  if (is_float(*image)) {
    // Linear light with white at 1, the convention of float TIFF. Grey is brought to three bands for the conversion.
    if (space == VIPS_INTERPRETATION_CMYK || (bands != 1 && bands != 3)) {
      vips_error("float samples", "%d bands, expected grey or RGB", bands);
      return -1;
    }
    if (bands == 1) {
      VipsImage *same[3] = {*image, *image, *image};
      if (step(image, vips_bandjoin(same, &made, 3, (void *)NULL), &made)) return -1;
    }
    VipsInterpretation linear = VIPS_INTERPRETATION_scRGB;
    if (step(image, vips_copy(*image, &made, "interpretation", linear, (void *)NULL), &made)) return -1;
    if (step(image, vips_colourspace(*image, &made, VIPS_INTERPRETATION_sRGB, (void *)NULL), &made)) return -1;
    return to_levels(image);
  }
  // Profiles are applied to the upper 8 bits: littleCMS is up to 9 levels off in dark colours on its 16-bit path.
  if (to_levels(image)) return -1;
  VipsInterpretation levels = space == VIPS_INTERPRETATION_CMYK && bands == 4 ? VIPS_INTERPRETATION_CMYK
                              : bands == 1                                    ? VIPS_INTERPRETATION_B_W
                                                                              : VIPS_INTERPRETATION_sRGB;
  if (step(image, vips_copy(*image, &made, "interpretation", levels, (void *)NULL), &made)) return -1;
  const void *profile = NULL;
  size_t length = 0;
  if (vips_image_get_typeof(*image, VIPS_META_ICC_NAME) != 0 &&
      vips_image_get_blob(*image, VIPS_META_ICC_NAME, &profile, &length) == 0 &&
      vips_icc_is_compatible_profile(*image, profile, length)) {
    if (levels != VIPS_INTERPRETATION_CMYK && profile_changes_nothing(*image, bands)) return 0;
    if (icc(*image, &made) == 0) return step(image, 0, &made);
    // A profile that cannot be used is as none.
    vips_error_clear();
  }
  if (levels == VIPS_INTERPRETATION_CMYK) *meaning = CMYK;
  return 0;
}

/// Fills `result` from a decoded header. 0, or -1 with libvips' error text set.
int cm_vips_decode(VipsImage *header, cm_picture *result) {
  VipsInterpretation space = vips_image_get_interpretation(header);
  int bands = header->Bands;
  int colours;
  if (header->Coding == VIPS_CODING_LABQ) {
    colours = bands;  // four packed bytes that stand for three values
  } else if (space == VIPS_INTERPRETATION_CMYK && bands >= 4) {
    colours = 4;
  } else if (space == VIPS_INTERPRETATION_MULTIBAND && bands > 4) {
    vips_error("bands", "%d bands, expected grey, RGB or CMYK", bands);
    return -1;
  } else {
    colours = bands >= 3 ? 3 : 1;
  }

  VipsImage *colour = NULL, *alpha = NULL, *joined = NULL;
  int bad = 0;
  if (bands > colours) {
    bad = vips_extract_band(header, &colour, 0, "n", colours, (void *)NULL) ||
          vips_extract_band(header, &alpha, colours, "n", 1, (void *)NULL);
  } else {
    bad = vips_copy(header, &colour, (void *)NULL);  // a copy, so that its metadata may be changed
  }
  if (!bad) bad = colours_to_levels(&colour, &result->meaning);
  if (!bad && alpha != NULL) bad = to_levels(&alpha);
  if (!bad && alpha != NULL) {
    bad = vips_bandjoin2(colour, alpha, &joined, (void *)NULL);
  } else if (!bad) {
    joined = colour;
    g_object_ref(joined);
  }
  if (!bad && joined->BandFmt != VIPS_FORMAT_UCHAR) {
    vips_error("sample format", "no 8-bit form");
    bad = -1;
  }
  if (!bad) {
    size_t bytes = 0;
    result->pixels = vips_image_write_to_memory(joined, &bytes);
    result->bands = joined->Bands;
    result->width = joined->Xsize;
    result->height = joined->Ysize;
    bad = result->pixels == NULL;
    int64_t expected = result->width * result->height * result->bands;
    int most = result->meaning == CMYK ? 5 : 4;
    if (!bad && ((int64_t)bytes != expected || result->bands > most)) {
      vips_error("pixels", "%zu bytes, expected %lld", bytes, (long long)expected);
      bad = -1;
    }
  }
  if (joined) g_object_unref(joined);
  if (alpha) g_object_unref(alpha);
  if (colour) g_object_unref(colour);
  return bad;
}

static cm_status attempt(
  cm_still_format format, const uint8_t *bytes, size_t count, int64_t max_pixels, cm_picture *result, int64_t *width,
  int64_t *height) {
  VipsImage *header = open_header(format, bytes, count);
  if (header == NULL) return CM_BAD_DATA;
  result->orientation = format == CM_STILL_HEIF ? 1 : vips_image_get_orientation(header);
  int turned = result->orientation >= 5 && result->orientation <= 8;
  *width = turned ? header->Ysize : header->Xsize;
  *height = turned ? header->Xsize : header->Ysize;
  cm_status status = CM_OK;
  if ((int64_t)header->Xsize * header->Ysize > max_pixels) {
    status = CM_TOO_LARGE;
  } else if (cm_vips_decode(header, result) != 0) {
    status = CM_BAD_DATA;
  }
  g_object_unref(header);
  return status;
}

cm_status cm_still_decode(
  cm_still_format format, const uint8_t *bytes, size_t count, int64_t max_pixels, cm_still *still, int64_t *width,
  int64_t *height) {
  still->ctx = NULL;
  *width = *height = 0;
  cm_status status = cm_vips_ready();
  if (status != CM_OK) return status;
  cm_picture *result = calloc(1, sizeof *result);
  if (result == NULL) return cm_fail(CM_NO_MEMORY, "no memory for a picture");
  cm_vips_enter(0);
  status = attempt(format, bytes, count, max_pixels, result, width, height);
  cm_vips_leave(0);
  if (status == CM_BAD_DATA) {
    g_free(result->pixels);
    memset(result, 0, sizeof *result);
    cm_vips_enter(1);
    vips_error_clear();
    status = attempt(format, bytes, count, max_pixels, result, width, height);
    if (status == CM_BAD_DATA) cm_vips_quote();
    cm_vips_leave(1);
  }
  vips_thread_shutdown();
  if (status == CM_TOO_LARGE) cm_fail(status, "%lld x %lld pixels", (long long)*width, (long long)*height);
  if (status != CM_OK) {
    g_free(result->pixels);
    free(result);
    return status;
  }
  still->ctx = result;
  return CM_OK;
}

void cm_still_free(cm_still still) {
  cm_picture *p = still.ctx;
  if (p == NULL) return;
  g_free(p->pixels);
  free(p);
}

// MARK: Copying out

/// a * b / 255, rounded to nearest; exact for 0 ... 255.
static inline uint8_t product(int a, int b) {
  int x = a * b + 128;
  return (uint8_t)((x + (x >> 8)) >> 8);
}

/// a over white, rounded to nearest.
static inline uint8_t over_white(int a, int alpha) {
  return (uint8_t)((a * alpha + 255 * (255 - alpha) + 127) / 255);
}

static inline void convert(const cm_picture *p, const uint8_t *from, uint8_t *to) {
  int alpha = 255;
  if (p->meaning == CMYK) {
    // Without a profile: each ink takes its share of the light that black leaves.
    int light = 255 - from[3];
    for (int i = 0; i < 3; i++) to[i] = (uint8_t)(light - product(from[i], light));
    if (p->bands == 5) alpha = from[4];
  } else if (p->bands < 3) {
    to[0] = to[1] = to[2] = from[0];
    if (p->bands == 2) alpha = from[1];
  } else {
    memcpy(to, from, 3);
    if (p->bands == 4) alpha = from[3];
  }
  if (alpha != 255) {
    for (int i = 0; i < 3; i++) to[i] = over_white(to[i], alpha);
  }
}

cm_status cm_still_copy(cm_still still, uint8_t *rgb, size_t count) {
  const cm_picture *p = still.ctx;
  if (p == NULL) return cm_fail(CM_BAD_ARGUMENT, "no picture");
  int64_t w = p->width, h = p->height, bands = p->bands;
  if ((int64_t)count != w * h * 3) {
    return cm_fail(CM_BAD_ARGUMENT, "room for %zu bytes, expected %lld", count, (long long)(w * h * 3));
  }
  if (bands == 3 && p->meaning == PLAIN && (p->orientation <= 1 || p->orientation > 8)) {
    memcpy(rgb, p->pixels, count);
    return CM_OK;
  }
  int64_t width = w, height = h;
  cm_steps steps = cm_orientation_steps(p->orientation, w, h, bands, w * bands);
  if (p->orientation >= 5 && p->orientation <= 8) width = h, height = w;
  for (int64_t y = 0; y < height; y++) {
    const uint8_t *from = p->pixels + steps.start + y * steps.below;
    for (int64_t x = 0; x < width; x++, from += steps.right, rgb += 3) convert(p, from, rgb);
  }
  return CM_OK;
}

// MARK: Encoding

cm_status cm_still_encode(
  cm_still_format format, const uint8_t *rgb, int64_t width, int64_t height, int quality, uint8_t **bytes,
  size_t *count) {
  *bytes = NULL;
  *count = 0;
  cm_status status = cm_vips_ready();
  if (status != CM_OK) return status;
  int64_t limit = format == CM_STILL_JPEG ? 65500 : VIPS_MAX_COORD;
  if (width < 1 || height < 1 || width > limit || height > limit) {
    return cm_fail(
      CM_BAD_ARGUMENT, "%lld x %lld pixels, expected sides of 1 to %lld", (long long)width, (long long)height,
      (long long)limit);
  }
  if (format != CM_STILL_JPEG && format != CM_STILL_PNG) {
    return cm_fail(CM_BAD_ARGUMENT, "pictures are written as JPEG or PNG");
  }
  if (quality < 1 || quality > 100) return cm_fail(CM_BAD_ARGUMENT, "quality %d, expected 1 to 100", quality);
  void *encoded = NULL;
  size_t size = 0;
  cm_vips_enter(0);
  VipsImage *raw = vips_image_new_from_memory(
    rgb, (size_t)(width * height * 3), (int)width, (int)height, 3, VIPS_FORMAT_UCHAR);
  VipsImage *image = NULL;
  int bad = raw == NULL ||
            vips_copy(raw, &image, "interpretation", VIPS_INTERPRETATION_sRGB, (void *)NULL) ||
            (format == CM_STILL_PNG
               ? vips_pngsave_buffer(image, &encoded, &size, "compression", 6, "strip", TRUE, (void *)NULL)
               : vips_jpegsave_buffer(image, &encoded, &size, "Q", quality, "strip", TRUE, (void *)NULL));
  if (image) g_object_unref(image);
  if (raw) g_object_unref(raw);
  if (bad) {
    status = cm_fail(
      CM_NO_MEMORY, "libvips could not encode %lld x %lld pixels", (long long)width, (long long)height);
  } else {
    // Copied so that one function gives back everything, whatever allocator made it.
    *bytes = malloc(size);
    if (*bytes == NULL) {
      status = cm_fail(CM_NO_MEMORY, "no memory for %zu bytes", size);
    } else {
      memcpy(*bytes, encoded, size);
      *count = size;
    }
  }
  g_free(encoded);
  cm_vips_leave(0);
  vips_thread_shutdown();
  return status;
}
