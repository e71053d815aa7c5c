#pragma once
// Video and sound through FFmpeg. The same rules as in cmedia.h, but for one thing: a `cm_movie` belongs to one thread
// at a time (`cm_movie_cancel` alone may be called from any).
//
// FFmpeg never opens anything by itself: bytes come from a descriptor or from memory, and a file that names another
// file or an address is refused.

#include "cmedia.h"

#ifdef __cplusplus
extern "C" {
#endif

/// An open file or stream; `ctx` is NULL when there is none.
typedef struct {
  void *ctx;
} cm_movie;

typedef struct {
  int64_t max_pixels;  ///< of one picture; checked before a decoder is opened, and by the decoder
  int64_t max_packet;  ///< bytes of one compressed picture or piece of sound
  int32_t max_streams;
  int32_t threads;     ///< of the video decoder
  double seconds;      ///< the longest that one call works, or waits for bytes
} cm_movie_limits;

/// Opens a regular file. With `follow` above 0 its end is believed only after it has not grown for that many seconds,
/// and it is read in order only. Pipes and devices are refused, but with `follow` a named pipe is read.
cm_status cm_movie_open_file(const char *path, const cm_movie_limits *limits, double follow, cm_movie *movie);

/// Opens bytes that stay where they are until the movie is closed.
cm_status cm_movie_open_memory(const uint8_t *bytes, size_t count, const cm_movie_limits *limits, cm_movie *movie);

/// Reads a descriptor in order, from where it stands. It stays the caller's.
cm_status cm_movie_open_descriptor(int descriptor, const cm_movie_limits *limits, cm_movie *movie);

void cm_movie_close(cm_movie movie);

/// Ends a running call and all later ones with `CM_CANCELLED`. From any thread, until the movie is closed.
void cm_movie_cancel(cm_movie movie);

/// What the headers say.
typedef struct {
  int32_t streams, video_tracks, audio_tracks;
  int32_t width, height;          ///< as stored, before turning; 0 without video
  int32_t orientation;            ///< as in EXIF, 1 ... 8; 0 for a turn that is no multiple of 90 degrees
  int32_t time_base_numerator, time_base_denominator;  ///< of the chosen video track
  int32_t reorder_delay;          ///< pictures that are decoded ahead of those shown before them
  int32_t rate_numerator, rate_denominator;            ///< mean frames a second; 0/0 unknown
  int32_t sample_rate, channels;  ///< of the chosen sound track; 0 without
  double start;                   ///< seconds at which the earliest track begins
  double duration;                ///< of the file in seconds, negative when unknown
  const char *container, *video_codec, *audio_codec;   ///< short names, static memory; "" without
} cm_movie_info;

cm_status cm_movie_describe(cm_movie movie, cm_movie_info *info);

// MARK: Pictures

/// A compressed picture's place.
typedef struct {
  int64_t presentation;  ///< in time base units; equal to `decoding` where a file has no such times
  int64_t decoding;      ///< where to seek for it, in the terms of the container's index
  int32_t is_key;
  int32_t is_guess;      ///< the file does not say when it is shown
} cm_movie_packet;

/// Lists the next pictures of the video track without decoding, in decoding order; `CM_END` when there are none left.
cm_status cm_movie_scan(cm_movie movie, cm_movie_packet *packets, size_t room, size_t *count);

typedef struct {
  int64_t presentation;    ///< in time base units
  int32_t width, height;   ///< upright
  int32_t is_damaged;      ///< parts of it were concealed
} cm_movie_frame;

/// Where decoding can begin for a picture at `decoding`, when the container has an index that says so; INT64_MIN
/// otherwise.
int64_t cm_movie_key_before(cm_movie movie, int64_t decoding);

/// Goes to the last picture at or before `decoding` from which decoding can begin, as far as the container knows.
cm_status cm_movie_seek(cm_movie movie, int64_t decoding);

/// Decodes the next picture in order of presentation; `CM_END` after the last. Pictures before `wanted` may be left out
/// when no other picture needs them.
cm_status cm_movie_next(cm_movie movie, int64_t wanted, cm_movie_frame *frame);

/// Packets that could not be decoded, so far.
int64_t cm_movie_lost(cm_movie movie);

/// Writes the picture that `cm_movie_next` found (`earlier` 0) or the one before it (1) as `width * height * 3` bytes of
/// 8-bit RGB, upright; `width` and `height` may be other than the frame's, which is then scaled (bicubic).
cm_status cm_movie_copy(
  cm_movie movie, int earlier, int64_t width, int64_t height, uint8_t *rgb, size_t count);

// MARK: Sound

/// Decodes the sound from `from` to `to` (seconds from the file's start; `to` may be infinite) as 16 kHz mono.
/// `*samples` is given back with `cm_samples_free`, `*start` is the time of the first one. More than `max_samples`
/// is `CM_TOO_LARGE`. Only for files and memory.
cm_status cm_movie_sound(
  cm_movie movie, double from, double to, int64_t max_samples, float **samples, size_t *count, double *start);

void cm_samples_free(float *samples);

// MARK: Animated pictures through libvips

typedef struct {
  void *ctx;
} cm_animation;

/// Opens an animated GIF or WebP; `bytes` stay where they are until it is closed. One page may have `max_pixels`.
cm_status cm_animation_open(
  cm_still_format format, const uint8_t *bytes, size_t count, int64_t max_pixels, int32_t max_pages,
  cm_animation *animation, int32_t *pages, int64_t *width, int64_t *height);

/// Copies the `pages` delays of the pages, in milliseconds.
cm_status cm_animation_delays(cm_animation animation, int32_t *delays, int32_t pages);

/// Decodes one page, as `cm_still_copy` writes it. Pages are asked for in ascending order.
cm_status cm_animation_copy(cm_animation animation, int32_t page, uint8_t *rgb, size_t count);

void cm_animation_close(cm_animation animation);

#ifdef __cplusplus
}
#endif
