#pragma once
// The C interface between Swift and the media libraries. Swift sees neither libvips' headers nor its variadic calls.
//
// Every function returns a `cm_status`. After anything but `CM_OK`, `cm_last_message` gives one line of detail that
// belongs to the calling thread and stays valid until its next `cm_` call. All functions may be called from any
// thread, several at a time. Memory handed out is given back with the function named beside it.

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  CM_OK = 0,
  CM_NO_SUCH_FILE,   ///< nothing lies at that path
  CM_IS_DIRECTORY,   ///< a folder lies there
  CM_NOT_REGULAR,    ///< a pipe, socket or device lies there
  CM_UNREADABLE,     ///< the system refused to open or read it; the message says why
  CM_TOO_LARGE,      ///< larger than the limit given; the outputs hold the size found
  CM_BAD_DATA,       ///< the bytes are not what they claim to be; the message says what was found
  CM_BAD_ARGUMENT,   ///< sizes out of range
  CM_NO_MEMORY,      ///< the system had no memory for it
  CM_END,            ///< there is no further picture
  CM_NO_TRACK,       ///< no video or no sound in it
  CM_TIMED_OUT,      ///< longer than the time given without anything done
  CM_CANCELLED,      ///< `cm_movie_cancel` was called
} cm_status;

/// One line about the last failure on this thread; never NULL.
const char *cm_last_message(void);

/// The version of libvips in use, such as "8.14.1"; static memory.
const char *cm_stills_version(void);

// MARK: Files

/// Reads a regular file of at most `limit` bytes into memory (`cm_free`). Never waits on a pipe or a device.
/// With `CM_TOO_LARGE`, `*count` is the file's size and nothing was read.
cm_status cm_file_read(const char *path, size_t limit, uint8_t **bytes, size_t *count);

/// Reads at most the first `most` bytes of a regular file (`cm_free`).
cm_status cm_file_read_start(const char *path, size_t most, uint8_t **bytes, size_t *count);

/// Gives back what `cm_file_read` or `cm_still_encode` handed out. NULL is fine.
void cm_free(uint8_t *bytes);

// MARK: Stills

typedef enum {
  CM_STILL_JPEG = 0,
  CM_STILL_PNG,
  CM_STILL_WEBP,
  CM_STILL_GIF,
  CM_STILL_TIFF,
  CM_STILL_HEIF,
} cm_still_format;

/// A decoded picture; `ctx` is NULL when there is none.
typedef struct {
  void *ctx;
} cm_still;

/// Decodes the first picture of `bytes` with the decoder of `format` alone.
///
/// The header is read first: when it promises more than `max_pixels` pixels the answer is `CM_TOO_LARGE` and nothing
/// has been decoded. `*width` and `*height` are pixels after the EXIF orientation is applied. Give the picture back
/// with `cm_still_free`.
cm_status cm_still_decode(
  cm_still_format format, const uint8_t *bytes, size_t count, int64_t max_pixels, cm_still *still, int64_t *width,
  int64_t *height);

/// Writes `width * height * 3` bytes of 8-bit sRGB, rows from top to bottom, upright, transparency over white.
cm_status cm_still_copy(cm_still still, uint8_t *rgb, size_t count);

void cm_still_free(cm_still still);

/// Encodes `width * height * 3` bytes of 8-bit sRGB as PNG or JPEG (`quality` 1 ... 100, JPEG only) into `*bytes`
/// (`cm_free`).
cm_status cm_still_encode(
  cm_still_format format, const uint8_t *rgb, int64_t width, int64_t height, int quality, uint8_t **bytes,
  size_t *count);

// MARK: Resampling

/// Resamples interleaved 8-bit RGB with the bicubic kernel (a = -0.5), widened by the scale when shrinking.
/// `source` has `width * height * 3` bytes, `destination` room for `new_width * new_height * 3`.
cm_status cm_resize_bicubic(
  const uint8_t *source, int64_t width, int64_t height, uint8_t *destination, int64_t new_width, int64_t new_height);

#ifdef __cplusplus
}
#endif
