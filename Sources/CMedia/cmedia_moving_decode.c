// Decoders, and pictures: listing, seeking, decoding.

#include <stdlib.h>
#include <unistd.h>

#include "cmedia_moving_private.h"

cm_status cm_decoder_open(movie *m, int index) {
  for (unsigned i = 0; i < m->format->nb_streams; i++) {
    m->format->streams[i]->discard = (int)i == index ? AVDISCARD_DEFAULT : AVDISCARD_ALL;
  }
  avcodec_free_context(&m->decoder);
  AVStream *stream = m->format->streams[index];
  const AVCodec *codec = avcodec_find_decoder(stream->codecpar->codec_id);
  // Of several decoders for one format the first may be one that is not used here.
  void *cursor = NULL;
  for (const AVCodec *other; (codec == NULL || !cm_decoder_is_allowed(codec)) && (other = av_codec_iterate(&cursor));) {
    if (av_codec_is_decoder(other) && other->id == stream->codecpar->codec_id) codec = other;
  }
  if (codec == NULL || !cm_decoder_is_allowed(codec)) {
    return cm_fail(CM_BAD_DATA, "no decoder for %s", avcodec_get_name(stream->codecpar->codec_id));
  }
  m->decoder = avcodec_alloc_context3(codec);
  if (m->decoder == NULL) return cm_fail(CM_NO_MEMORY, "no memory for a decoder");
  int error = avcodec_parameters_to_context(m->decoder, stream->codecpar);
  if (error < 0) return cm_ffmpeg_fail(m, error, "opening the decoder");
  m->decoder->pkt_timebase = stream->time_base;
  m->decoder->max_pixels = m->limits.max_pixels;
  m->decoder->thread_count = codec->type == AVMEDIA_TYPE_VIDEO ? m->limits.threads : 1;
  // Threads that each take a frame hold as many back; a stream wants its frame now.
  m->decoder->thread_type = m->source.waits ? FF_THREAD_SLICE : FF_THREAD_FRAME | FF_THREAD_SLICE;
  error = avcodec_open2(m->decoder, codec, NULL);
  if (error < 0) return cm_ffmpeg_fail(m, error, "opening the decoder");
  m->draining = 0;
  return CM_OK;
}

void cm_movie_close(cm_movie handle) {
  movie *m = handle.ctx;
  if (m == NULL) return;
  sws_freeContext(m->scaler);
  avcodec_free_context(&m->decoder);
  av_frame_free(&m->frame);
  av_frame_free(&m->earlier);
  av_packet_free(&m->packet);
  avformat_close_input(&m->format);
  if (m->io != NULL) {
    av_freep(&m->io->buffer);
    avio_context_free(&m->io);
  }
  if (m->source.owned) close(m->source.descriptor);
  free(m);
}

static cm_status need_video(movie *m) {
  if (m == NULL) return cm_fail(CM_BAD_ARGUMENT, "no movie");
  if (m->video < 0) return cm_fail(CM_NO_TRACK, "no video track");
  if (m->decoder != NULL) return CM_OK;
  return cm_decoder_open(m, m->video);
}

static int64_t first_known(int64_t a, int64_t b) { return a != AV_NOPTS_VALUE ? a : b; }

/// Keeps the latest time of a packet.
static void note(movie *m, const AVPacket *p) {
  if (p->pts != AV_NOPTS_VALUE && p->pts > m->latest) m->latest = p->pts;
  if (p->dts != AV_NOPTS_VALUE && p->dts > m->latest) m->latest = p->dts;
}

/// At the end: pictures that the index promises and the file does not have are lost.
static void count_missing(movie *m) {
  if (m->has_ended) return;
  m->has_ended = 1;
  AVStream *stream = m->format->streams[m->video];
  for (int i = avformat_index_get_entries_count(stream) - 1; i >= 0; i--) {
    const AVIndexEntry *entry = avformat_index_get_entry(stream, i);
    if (entry == NULL || entry->timestamp <= m->latest) return;
    if (!(entry->flags & AVINDEX_DISCARD_FRAME)) m->lost++;
  }
}

// MARK: Listing and seeking

cm_status cm_movie_scan(cm_movie handle, cm_movie_packet *packets, size_t room, size_t *count) {
  movie *m = handle.ctx;
  *count = 0;
  cm_status status = need_video(m);
  if (status != CM_OK) return status;
  cm_begin(m);
  while (*count < room) {
    int error = av_read_frame(m->format, m->packet);
    if (error < 0) {
      if (cm_interrupted(m)) return cm_ffmpeg_fail(m, error, "listing the pictures");
      count_missing(m);
      return *count > 0 ? CM_OK : CM_END;
    }
    const AVPacket *p = m->packet;
    int64_t presentation = first_known(p->pts, p->dts);
    if (p->stream_index == m->video) note(m, p);
    if (p->stream_index == m->video && presentation != AV_NOPTS_VALUE && !(p->flags & AV_PKT_FLAG_DISCARD)) {
      packets[(*count)++] = (cm_movie_packet){
        .presentation = presentation,
        .decoding = m->seeks_by_presentation ? presentation : first_known(p->dts, p->pts),
        .is_key = (p->flags & AV_PKT_FLAG_KEY) != 0,
        .is_guess = p->pts == AV_NOPTS_VALUE,
      };
    }
    av_packet_unref(m->packet);
    if (cm_interrupted(m)) return cm_ffmpeg_fail(m, AVERROR_EXIT, "listing the pictures");
  }
  return CM_OK;
}

int64_t cm_movie_key_before(cm_movie handle, int64_t decoding) {
  movie *m = handle.ctx;
  if (m == NULL || m->video < 0) return INT64_MIN;
  AVStream *stream = m->format->streams[m->video];
  int place = av_index_search_timestamp(stream, decoding, AVSEEK_FLAG_BACKWARD);
  const AVIndexEntry *entry = place < 0 ? NULL : avformat_index_get_entry(stream, place);
  return entry == NULL || entry->timestamp == AV_NOPTS_VALUE ? INT64_MIN : entry->timestamp;
}

cm_status cm_movie_seek(cm_movie handle, int64_t decoding) {
  movie *m = handle.ctx;
  cm_status status = need_video(m);
  if (status != CM_OK) return status;
  if (m->source.waits) return cm_fail(CM_BAD_ARGUMENT, "a stream is read in order");
  cm_begin(m);
  int error = avformat_seek_file(m->format, m->video, INT64_MIN, decoding, decoding, 0);
  if (error < 0) return cm_ffmpeg_fail(m, error, "seeking");
  avcodec_flush_buffers(m->decoder);
  av_frame_unref(m->frame);
  av_frame_unref(m->earlier);
  m->draining = 0;
  m->last = AV_NOPTS_VALUE;
  return CM_OK;
}

// MARK: Decoding

/// Whether pictures that no other needs may be left out without harm, as far as this decoder knows them.
static int can_leave_out(const movie *m) {
  return m->decoder->codec_id == AV_CODEC_ID_H264 || m->decoder->codec_id == AV_CODEC_ID_HEVC;
}

/// Gives the decoder its next packet; 1 when there was none left, else 0 or an error.
static int feed(movie *m, int64_t wanted) {
  for (;;) {
    int error = av_read_frame(m->format, m->packet);
    if (error < 0) {
      if (cm_interrupted(m) || m->has_stalled) return AVERROR_EXIT;
      if (error != AVERROR_EOF) m->lost++;  // the rest cannot be read: what came before counts
      count_missing(m);
      m->draining = 1;
      // Decoders that work ahead may tell of an earlier packet's errors here.
      error = avcodec_send_packet(m->decoder, NULL);
      if (error < 0 && error != AVERROR_EOF) m->lost++;
      return error == AVERROR(ENOMEM) ? error : 1;
    }
    AVPacket *p = m->packet;
    if (p->stream_index != m->video) {
      av_packet_unref(p);
      if (cm_interrupted(m)) return AVERROR_EXIT;
      continue;
    }
    note(m, p);
    if (p->size > m->limits.max_packet) {
      av_packet_unref(p);
      m->lost++;
      continue;
    }
    int is_early = p->pts != AV_NOPTS_VALUE && p->pts < wanted && can_leave_out(m);
    m->decoder->skip_frame = is_early ? AVDISCARD_NONREF : AVDISCARD_DEFAULT;
    int is_partial = (p->flags & AV_PKT_FLAG_CORRUPT) != 0;
    error = avcodec_send_packet(m->decoder, p);
    av_packet_unref(p);
    if (error == AVERROR(ENOMEM)) return error;
    if (is_partial || (error < 0 && error != AVERROR(EAGAIN))) m->lost++;
    return 0;
  }
}

/// Decodes until the next picture lies in `m->frame`.
static cm_status decode_next(movie *m, int64_t wanted) {
  int64_t barren = 0;
  for (;;) {
    int error = avcodec_receive_frame(m->decoder, m->frame);
    if (error == 0) return CM_OK;
    if (error == AVERROR_EOF) return cm_fail(CM_END, "no further picture");
    if (error == AVERROR(ENOMEM)) return cm_ffmpeg_fail(m, error, "a picture");
    if (cm_interrupted(m)) return cm_ffmpeg_fail(m, AVERROR_EXIT, "decoding");
    if (error != AVERROR(EAGAIN)) m->lost++;
    if (m->draining) {
      // Errors of pictures that were still inside: each is reported once. A decoder that never ends is given up.
      if (++barren > 1000) return cm_fail(CM_END, "no further picture");
      continue;
    }
    // A file ends by itself; a stream of rubbish does not.
    if (m->source.waits && ++barren > 10000) {
      return cm_fail(CM_BAD_DATA, "%lld packets in a row without a picture", (long long)barren);
    }
    error = feed(m, wanted);
    if (error < 0) return cm_ffmpeg_fail(m, error, "decoding");
  }
}

cm_status cm_movie_next(cm_movie handle, int64_t wanted, cm_movie_frame *result) {
  movie *m = handle.ctx;
  cm_status status = need_video(m);
  if (status != CM_OK) return status;
  cm_begin(m);
  av_frame_unref(m->earlier);
  av_frame_move_ref(m->earlier, m->frame);
  status = decode_next(m, wanted);
  if (status != CM_OK) {
    // The last picture stays what it was.
    av_frame_unref(m->frame);
    av_frame_move_ref(m->frame, m->earlier);
    return status;
  }
  AVFrame *f = m->frame;
  if (f->width < 1 || f->height < 1 || (int64_t)f->width * f->height > m->limits.max_pixels) {
    return cm_fail(CM_TOO_LARGE, "%d x %d pixels", f->width, f->height);
  }
  int64_t time = first_known(f->best_effort_timestamp, first_known(f->pts, f->pkt_dts));
  if (time == AV_NOPTS_VALUE) {
    // A bare stream without times: one picture after the other at the track's rate.
    const AVStream *stream = m->format->streams[m->video];
    AVRational rate = stream->avg_frame_rate.num > 0 ? stream->avg_frame_rate : stream->r_frame_rate;
    if (rate.num <= 0 || rate.den <= 0) rate = (AVRational){25, 1};
    int64_t step = av_rescale_q(1, av_inv_q(rate), stream->time_base);
    time = m->last == AV_NOPTS_VALUE ? 0 : m->last + (step > 0 ? step : 1);
  }
  m->last = time;
  int turned = m->orientation >= 5;
  result->presentation = time;
  result->width = turned ? f->height : f->width;
  result->height = turned ? f->width : f->height;
  result->is_damaged = f->decode_error_flags != 0 || (f->flags & AV_FRAME_FLAG_CORRUPT) != 0;
  return CM_OK;
}

int64_t cm_movie_lost(cm_movie handle) {
  movie *m = handle.ctx;
  return m == NULL ? 0 : m->lost;
}
