#pragma once
// Shared by the files that speak to libvips, unseen by Swift.

#include <vips/vips.h>

#include "cmedia_message.h"

typedef enum { PLAIN, CMYK } cm_meaning;

/// 8-bit pixels as the file orders them; turned, flattened and converted when they are copied out.
typedef struct {
  uint8_t *pixels;
  int64_t width, height;
  int bands;  ///< 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha or CMYK, 5 CMYK and alpha
  int orientation;
  cm_meaning meaning;
} cm_picture;

/// Starts libvips, once.
cm_status cm_vips_ready(void);

/// Around every use of libvips. With `alone` nothing else runs in between, so that the error text is one's own.
void cm_vips_enter(int alone);
void cm_vips_leave(int alone);

/// The first line of libvips' error text, which is emptied.
cm_status cm_vips_quote(void);

/// Fills `result` from a decoded header. 0, or -1 with libvips' error text set.
int cm_vips_decode(VipsImage *header, cm_picture *result);
