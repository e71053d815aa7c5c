// Sound of any track as 16 kHz mono float.

#include <libavutil/channel_layout.h>
#include <libavutil/opt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cmedia_moving_private.h"

enum { kRate = 16000 };

/// The samples made so far and the converter that makes them.
typedef struct {
  SwrContext *converter;
  int rate, format;
  AVChannelLayout layout;
  float *samples;
  int64_t count, room, most;
  int64_t skip;     ///< output samples still to be dropped at the beginning
  int64_t wanted;   ///< output samples to keep
  int was_sought;   ///< decoding begins in the middle
} sound;

void cm_samples_free(float *samples) { free(samples); }

static void clear(sound *s) {
  swr_free(&s->converter);
  av_channel_layout_uninit(&s->layout);
  free(s->samples);
}

static cm_status make_room(sound *s, int64_t more) {
  if (s->count + more <= s->room) return CM_OK;
  int64_t room = s->room * 2 > s->count + more ? s->room * 2 : s->count + more + kRate;
  float *grown = realloc(s->samples, (size_t)room * sizeof *grown);
  if (grown == NULL) return cm_fail(CM_NO_MEMORY, "no memory for %lld samples", (long long)room);
  s->samples = grown;
  s->room = room;
  return CM_OK;
}

/// Converts `count` samples of every channel; with NULL, what the converter still holds.
static cm_status convert(sound *s, const uint8_t *const *data, int count) {
  if (s->converter == NULL) return CM_OK;
  int most = swr_get_out_samples(s->converter, count);
  if (most < 0) return cm_fail(CM_BAD_DATA, "the sound cannot be converted");
  cm_status status = make_room(s, most);
  if (status != CM_OK) return status;
  uint8_t *target = (uint8_t *)(s->samples + s->count);
  int made = swr_convert(s->converter, &target, most, (const uint8_t **)data, count);
  if (made < 0) return cm_fail(CM_BAD_DATA, "the sound cannot be converted");
  int64_t dropped = s->skip < made ? s->skip : made;
  if (dropped > 0) {
    memmove(s->samples + s->count, s->samples + s->count + dropped, (size_t)(made - dropped) * sizeof(float));
    s->skip -= dropped;
  }
  s->count += made - dropped;
  if (s->count > s->wanted) s->count = s->wanted;
  if (s->count > s->most) return cm_fail(CM_TOO_LARGE, "more than %lld samples", (long long)s->most);
  return CM_OK;
}

/// A converter for frames like this one; what the one before it still held is taken first.
static cm_status adapt(sound *s, const AVFrame *f) {
  AVChannelLayout layout = {0};
  int error = f->ch_layout.order == AV_CHANNEL_ORDER_UNSPEC
                ? (av_channel_layout_default(&layout, f->ch_layout.nb_channels), 0)
                : av_channel_layout_copy(&layout, &f->ch_layout);
  if (error < 0 || f->sample_rate < 1 || f->sample_rate > 1 << 20 || layout.nb_channels < 1) {
    av_channel_layout_uninit(&layout);
    return cm_fail(CM_BAD_DATA, "%d channels at %d Hz", f->ch_layout.nb_channels, f->sample_rate);
  }
  if (s->converter != NULL && s->rate == f->sample_rate && s->format == f->format &&
      av_channel_layout_compare(&s->layout, &layout) == 0) {
    av_channel_layout_uninit(&layout);
    return CM_OK;
  }
  cm_status status = convert(s, NULL, 0);
  swr_free(&s->converter);
  av_channel_layout_uninit(&s->layout);
  s->layout = layout;
  if (status != CM_OK) return status;
  AVChannelLayout mono = AV_CHANNEL_LAYOUT_MONO;
  error = swr_alloc_set_opts2(
    &s->converter, &mono, AV_SAMPLE_FMT_FLT, kRate, &s->layout, f->format, f->sample_rate, 0, NULL);
  // Channels are averaged, not summed: nothing that fits before exceeds 1 afterwards.
  if (error >= 0) error = av_opt_set_double(s->converter, "rematrix_maxval", 1.0, 0);
  if (error >= 0) error = swr_init(s->converter);
  if (error < 0) return cm_fail(CM_BAD_DATA, "%d channels at %d Hz", f->ch_layout.nb_channels, f->sample_rate);
  s->rate = f->sample_rate;
  s->format = f->format;
  return CM_OK;
}

/// Where decoding begins: the first sample of `f` that is used, so that the 16 kHz grid is the one the whole track has.
/// Sets the number of output samples to drop until `from`, and the time of the first one kept.
static int begin_at(movie *m, sound *s, const AVFrame *f, double from, double to, double *start) {
  const AVStream *stream = m->format->streams[m->audio];
  double file_start = m->format->start_time == AV_NOPTS_VALUE ? 0 : (double)m->format->start_time / AV_TIME_BASE;
  double track = stream->start_time == AV_NOPTS_VALUE ? file_start : stream->start_time * av_q2d(stream->time_base);
  int64_t time = f->best_effort_timestamp;
  double seconds = time == AV_NOPTS_VALUE ? track : time * av_q2d(stream->time_base);
  // `period` input samples are a whole number of output samples.
  int64_t position = llround((seconds - track) * f->sample_rate);
  int64_t period = f->sample_rate / av_gcd(f->sample_rate, kRate);
  int64_t late = s->was_sought ? ((position % period) + period) % period : 0;
  int drop = late == 0 ? 0 : (int)(period - late);
  if (drop >= f->nb_samples) drop = 0;  // a rate without a common grid: off by less than a sample
  int64_t first = (int64_t)llround((double)(position + drop) / f->sample_rate * kRate);
  double offset = track - file_start;
  int64_t keep_from = (int64_t)ceil((from - offset) * kRate - 1e-6);
  s->skip = keep_from > first ? keep_from - first : 0;
  *start = offset + (double)(first + s->skip) / kRate;
  double length = (to - *start) * kRate;
  s->wanted = length >= 9e15 ? INT64_MAX : length <= 0 ? 0 : (int64_t)ceil(length - 1e-6);
  return drop;
}

static cm_status take_frame(movie *m, sound *s, double from, double to, int *has_begun, double *start) {
  AVFrame *f = m->frame;
  if (f->nb_samples < 1 || f->extended_data == NULL) return CM_OK;
  int drop = *has_begun ? 0 : begin_at(m, s, f, from, to, start);
  *has_begun = 1;
  cm_status status = adapt(s, f);
  if (status != CM_OK) return status;
  if (drop == 0) return convert(s, (const uint8_t *const *)f->extended_data, f->nb_samples);
  int planar = av_sample_fmt_is_planar(f->format);
  int channels = f->ch_layout.nb_channels, planes = planar ? channels : 1;
  int bytes = av_get_bytes_per_sample(f->format) * (planar ? 1 : channels) * drop;
  const uint8_t **moved = calloc((size_t)planes, sizeof *moved);
  if (moved == NULL) return cm_fail(CM_NO_MEMORY, "no memory for %d channels", channels);
  for (int i = 0; i < planes; i++) moved[i] = f->extended_data[i] + bytes;
  status = convert(s, moved, f->nb_samples - drop);
  free(moved);
  return status;
}

static cm_status decode_all(movie *m, sound *s, double from, double to, double *start) {
  int has_begun = 0, draining = 0;
  while (s->count < s->wanted) {
    if (cm_interrupted(m)) return cm_ffmpeg_fail(m, AVERROR_EXIT, "decoding sound");
    int error = avcodec_receive_frame(m->decoder, m->frame);
    if (error == 0) {
      // A minute of sound in is a minute of work done.
      if (has_begun) cm_begin(m);
      cm_status status = take_frame(m, s, from, to, &has_begun, start);
      av_frame_unref(m->frame);
      if (status != CM_OK) return status;
      continue;
    }
    if (error == AVERROR_EOF) break;
    if (error == AVERROR(ENOMEM)) return cm_ffmpeg_fail(m, error, "sound");
    if (error != AVERROR(EAGAIN)) m->lost++;
    if (draining) {
      if (++draining > 1000) break;
      continue;
    }
    error = av_read_frame(m->format, m->packet);
    if (error < 0) {
      if (cm_interrupted(m)) return cm_ffmpeg_fail(m, error, "decoding sound");
      if (error != AVERROR_EOF) m->lost++;
      draining = 1;
      avcodec_send_packet(m->decoder, NULL);
      continue;
    }
    if (m->packet->stream_index == m->audio) {
      error = m->packet->size > m->limits.max_packet ? AVERROR_INVALIDDATA : avcodec_send_packet(m->decoder, m->packet);
      if (error < 0) m->lost++;
    }
    av_packet_unref(m->packet);
  }
  cm_status status = s->count < s->wanted ? convert(s, NULL, 0) : CM_OK;
  if (status == CM_OK && !has_begun) return cm_fail(CM_BAD_DATA, "no sound could be decoded");
  return status;
}

cm_status cm_movie_sound(
  cm_movie handle, double from, double to, int64_t max_samples, float **samples, size_t *count, double *start) {
  *samples = NULL;
  *count = 0;
  *start = 0;
  movie *m = handle.ctx;
  if (m == NULL || m->source.waits || !(from >= 0) || !(to > from)) {
    return cm_fail(CM_BAD_ARGUMENT, "a file and a range of seconds are needed");
  }
  if (m->audio < 0) return cm_fail(CM_NO_TRACK, "no sound track");
  cm_begin(m);
  cm_status status = cm_decoder_open(m, m->audio);
  if (status != CM_OK) return status;
  const AVStream *stream = m->format->streams[m->audio];
  double file_start = m->format->start_time == AV_NOPTS_VALUE ? 0 : (double)m->format->start_time / AV_TIME_BASE;
  // Decoders and the resampler need some sound before the first that is wanted.
  sound s = {.most = max_samples, .wanted = INT64_MAX};
  double begin = from - 1;
  if (begin > 0) {
    int64_t place = (int64_t)((begin + file_start) / av_q2d(stream->time_base));
    // Where that fails the track is decoded from its beginning: slower, not different.
    s.was_sought = avformat_seek_file(m->format, m->audio, INT64_MIN, place, place, 0) >= 0;
  }
  status = decode_all(m, &s, from, to, start);
  if (status == CM_OK) {
    *samples = s.samples;
    *count = (size_t)s.count;
    s.samples = NULL;
  }
  clear(&s);
  return status;
}
