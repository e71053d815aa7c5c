#pragma once
// Shared by the files that speak to FFmpeg, unseen by Swift.

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswresample/swresample.h>
#include <libswscale/swscale.h>
#include <stdatomic.h>

#include "cmedia_message.h"
#include "cmedia_moving.h"

/// Where the bytes come from.
typedef struct {
  int descriptor;        ///< -1 for memory
  int owned;             ///< closed with the movie
  int waits;             ///< a pipe or a growing file: read in order, and waited for
  int grows;             ///< a regular file that may still grow
  double patience;       ///< seconds after which a file that does not grow has ended
  const uint8_t *bytes;  ///< memory
  int64_t size, position;
} cm_source;

typedef struct {
  cm_source source;
  cm_movie_limits limits;
  AVIOContext *io;
  AVFormatContext *format;
  int video, audio;      ///< stream indices, or -1
  AVCodecContext *decoder;
  AVPacket *packet;
  AVFrame *frame, *earlier;  ///< the last picture and the one before it
  struct SwsContext *scaler;
  int orientation;
  int draining;
  int seeks_by_presentation;  ///< what the container's index holds; most hold times of decoding
  int64_t lost;
  int64_t latest;        ///< the latest time of any packet that was read
  int has_ended;         ///< packets that the index promises beyond the file's end were counted
  int64_t last;          ///< presentation of the last frame
  double deadline;       ///< on the monotonic clock
  int has_stalled;       ///< bytes did not come in time: FFmpeg takes that for the end, and must not
  atomic_int cancelled;
} movie;

/// Seconds on the monotonic clock.
double cm_now(void);

/// Opens what `path` names into `source`.
cm_status cm_source_open(cm_source *source, const char *path, double follow);

/// An input that reads `m->source`; NULL without memory.
AVIOContext *cm_source_input(movie *m);

/// Whether the time is over or the movie was cancelled; FFmpeg's interrupt callback.
int cm_interrupted(void *movie);

/// Starts the clock of one call, and forgets what FFmpeg complained of before.
void cm_begin(movie *m);

/// The status for an error of FFmpeg's, with its words and what `doing` names; looks at clock and cancellation first.
cm_status cm_ffmpeg_fail(movie *m, int error, const char *doing);

/// Opens the decoder of a stream and has all other streams left out.
cm_status cm_decoder_open(movie *m, int stream);

/// Whether this decoder is among those that are used at all.
int cm_decoder_is_allowed(const AVCodec *codec);
