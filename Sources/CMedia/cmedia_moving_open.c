// Opening: which containers and decoders are used at all, limits, choice of tracks.

#include <libavutil/display.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cmedia_moving_private.h"

// Containers that hold their own data. Play lists, and everything that names other files or addresses (hls, dash,
// concat, image2, sdp, avisynth …), are not among them.
static const char containers[] =
  "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,ogg,wav,w64,flac,mp3,aac,mpegts,mpeg,flv,asf,ivf,nut,aiff,caf,amr";

static const char *const decoders[] = {
  // pictures
  "h264", "hevc", "vp8", "vp9", "libdav1d", "av1", "mpeg4", "msmpeg4", "msmpeg4v2", "h263", "h263p", "flv",
  "mpeg1video", "mpeg2video", "mjpeg", "theora", "wmv1", "wmv2", "wmv3", "vc1", "prores", "dnxhd", "ffv1", "huffyuv",
  "ffvhuff", "rawvideo", "png", "dvvideo", "gif",
  // sound
  "aac", "aac_latm", "mp1float", "mp2float", "mp3float", "mp3", "mp2", "vorbis", "opus", "flac", "alac", "ac3",
  "eac3", "wmav1", "wmav2", "amrnb", "amrwb", "adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "gsm", "gsm_ms",
  "pcm_u8", "pcm_s8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le",
  "pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_alaw", "pcm_mulaw",
};
enum { kDecoders = sizeof decoders / sizeof *decoders };

static char decoder_list[kDecoders * 16];

int cm_decoder_is_allowed(const AVCodec *codec) {
  for (size_t i = 0; i < kDecoders; i++) {
    if (strcmp(codec->name, decoders[i]) == 0) return 1;
  }
  return 0;
}

// MARK: Words

static _Thread_local char complaint[256];

/// Keeps the first complaint of this thread in place of printing it: those that follow come of it.
static void keep_log(void *context, int level, const char *format, va_list arguments) {
  if (level > AV_LOG_ERROR || complaint[0] != 0) return;
  int prefix = 1;
  av_log_format_line2(context, level, format, arguments, complaint, sizeof complaint, &prefix);
  // "[mov,mp4 @ 0x5581…] moov atom not found": without the address.
  char *end = complaint[0] == '[' ? strstr(complaint, "] ") : NULL;
  if (end != NULL) memmove(complaint, end + 2, strlen(end + 2) + 1);
}

void cm_begin(movie *m) {
  m->deadline = cm_now() + m->limits.seconds;
  complaint[0] = 0;
}

cm_status cm_ffmpeg_fail(movie *m, int error, const char *doing) {
  if (atomic_load(&m->cancelled)) return cm_fail(CM_CANCELLED, "cancelled while %s", doing);
  if (m->has_stalled) return cm_fail(CM_TIMED_OUT, "nothing came for %g s", m->limits.seconds);
  if (cm_now() > m->deadline) return cm_fail(CM_TIMED_OUT, "%s took more than %g s", doing, m->limits.seconds);
  if (strncmp(complaint, "Number of streams exceeds", 25) == 0) {
    return cm_fail(CM_BAD_DATA, "%s: more than %d tracks", doing, m->limits.max_streams);
  }
  if (error == AVERROR(ENOMEM)) return cm_fail(CM_NO_MEMORY, "no memory for %s", doing);
  if (strncmp(complaint, "Format not on", 13) == 0) {
    return cm_fail(CM_BAD_DATA, "%s: a kind of container that is not read, such as a play list", doing);
  }
  char words[128];
  av_strerror(error, words, sizeof words);
  size_t length = strlen(complaint);
  while (length > 0 && (complaint[length - 1] == '\n' || complaint[length - 1] == '.')) complaint[--length] = 0;
  if (length > 0) return cm_fail(CM_BAD_DATA, "%s: %s (%s)", doing, words, complaint);
  return cm_fail(CM_BAD_DATA, "%s: %s", doing, words);
}

// MARK: Opening

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void set_up(void) {
  av_log_set_callback(keep_log);
  // No single block of FFmpeg's may be larger: a header of a few bytes can ask for gigabytes of tables.
  av_max_alloc((size_t)1 << 30);
  for (size_t i = 0; i < kDecoders; i++) {
    if (i > 0) strcat(decoder_list, ",");
    strcat(decoder_list, decoders[i]);
  }
}

/// A container that wants another file does not get it.
static int refuse_to_open(AVFormatContext *format, AVIOContext **io, const char *url, int flags, AVDictionary **options) {
  (void)format, (void)io, (void)url, (void)flags, (void)options;
  return AVERROR(EPERM);
}

static int is_picture_track(const AVStream *stream) {
  return stream->codecpar->codec_type == AVMEDIA_TYPE_VIDEO && !(stream->disposition & AV_DISPOSITION_ATTACHED_PIC);
}

static cm_status check_sizes(const movie *m) {
  for (unsigned i = 0; i < m->format->nb_streams; i++) {
    const AVCodecParameters *p = m->format->streams[i]->codecpar;
    if (p->codec_type == AVMEDIA_TYPE_VIDEO && (int64_t)p->width * p->height > m->limits.max_pixels) {
      return cm_fail(CM_TOO_LARGE, "%d x %d pixels", p->width, p->height);
    }
  }
  return CM_OK;
}

/// EXIF's number for the track's display matrix, 0 when it turns by another angle than a multiple of 90 degrees.
static int orientation_of(const AVStream *stream) {
  const int32_t *matrix = NULL;
#if LIBAVFORMAT_VERSION_MAJOR >= 61
  const AVPacketSideData *side = av_packet_side_data_get(
    stream->codecpar->coded_side_data, stream->codecpar->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);
  if (side != NULL && side->size >= 9 * sizeof *matrix) matrix = (const int32_t *)side->data;
#else
  size_t size = 0;
  const uint8_t *data = av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
  if (data != NULL && size >= 9 * sizeof *matrix) matrix = (const int32_t *)data;
#endif
  if (matrix == NULL) return 1;
  // A stored point (x, y) is shown at (a x + c y, b x + d y).
  double a = matrix[0], b = matrix[1], c = matrix[3], d = matrix[4];
  double most = fmax(fmax(fabs(a), fabs(b)), fmax(fabs(c), fabs(d)));
  if (most == 0) return 1;
  double small = 0.02 * most;
  if (fabs(b) < small && fabs(c) < small) return a > 0 ? (d > 0 ? 1 : 4) : (d > 0 ? 2 : 3);
  if (fabs(a) < small && fabs(d) < small) return b > 0 ? (c > 0 ? 5 : 6) : (c > 0 ? 8 : 7);
  return 0;
}

static void choose_tracks(movie *m) {
  int64_t best = -1;
  for (unsigned i = 0; i < m->format->nb_streams; i++) {
    const AVStream *stream = m->format->streams[i];
    if (!is_picture_track(stream)) continue;
    int64_t merit = (int64_t)stream->codecpar->width * stream->codecpar->height;
    if (stream->disposition & AV_DISPOSITION_DEFAULT) merit += INT64_C(1) << 50;
    if (merit > best) {
      best = merit;
      m->video = (int)i;
    }
  }
  m->audio = av_find_best_stream(m->format, AVMEDIA_TYPE_AUDIO, -1, m->video, NULL, 0);
  if (m->audio < 0) m->audio = -1;
  m->orientation = m->video < 0 ? 1 : orientation_of(m->format->streams[m->video]);
}

static cm_status find_out(movie *m) {
  AVDictionary *options[1] = {NULL};
  unsigned count = m->format->nb_streams;
  AVDictionary **each = count > 0 ? calloc(count, sizeof *each) : NULL;
  if (count > 0 && each == NULL) return cm_fail(CM_NO_MEMORY, "no memory for %u tracks", count);
  av_dict_set_int(options, "max_pixels", m->limits.max_pixels, 0);
  av_dict_set(options, "threads", "1", 0);
  for (unsigned i = 0; i < count; i++) av_dict_copy(&each[i], options[0], 0);
  int error = avformat_find_stream_info(m->format, each);
  for (unsigned i = 0; i < count; i++) av_dict_free(&each[i]);
  av_dict_free(options);
  free(each);
  return error < 0 ? cm_ffmpeg_fail(m, error, "looking at the tracks") : CM_OK;
}

static cm_status probe(movie *m) {
  m->io = cm_source_input(m);
  m->format = avformat_alloc_context();
  m->packet = av_packet_alloc();
  m->frame = av_frame_alloc();
  m->earlier = av_frame_alloc();
  if (m->io == NULL || m->format == NULL || m->packet == NULL || m->frame == NULL || m->earlier == NULL) {
    return cm_fail(CM_NO_MEMORY, "no memory for a decoder");
  }
  m->format->pb = m->io;
  m->format->flags |= AVFMT_FLAG_CUSTOM_IO;
  m->format->io_open = refuse_to_open;
  m->format->interrupt_callback = (AVIOInterruptCB){.callback = cm_interrupted, .opaque = m};
  m->format->max_streams = m->limits.max_streams;
  if (m->source.waits) {
    // The first pictures of a stream are wanted before seconds of it have passed.
    m->format->probesize = 1 << 20;
    m->format->max_analyze_duration = AV_TIME_BASE / 2;
    m->format->fps_probe_size = 0;
  }
  m->format->format_whitelist = av_strdup(containers);
  m->format->codec_whitelist = av_strdup(decoder_list);
  m->format->protocol_whitelist = av_strdup("");
  int error = avformat_open_input(&m->format, NULL, NULL, NULL);  // frees the context when it fails
  if (error < 0) return cm_ffmpeg_fail(m, error, "reading the headers");
  // Sizes once as the headers promise them, before any decoder runs, and once as the decoders found them.
  cm_status status = check_sizes(m);
  if (status == CM_OK) status = find_out(m);
  if (status == CM_OK) status = check_sizes(m);
  if (status == CM_OK) choose_tracks(m);
  m->seeks_by_presentation = strncmp(m->format->iformat->name, "matroska", 8) == 0;
  return status;
}

static cm_status finish_opening(movie *m, const cm_movie_limits *limits, cm_movie *result) {
  pthread_once(&once, set_up);
  m->limits = *limits;
  m->video = m->audio = -1;
  m->last = AV_NOPTS_VALUE;
  m->latest = INT64_MIN;
  atomic_init(&m->cancelled, 0);
  cm_begin(m);
  cm_status status = probe(m);
  if (status != CM_OK) {
    cm_movie_close((cm_movie){m});
    return status;
  }
  result->ctx = m;
  return CM_OK;
}

static movie *new_movie(cm_movie *result) {
  result->ctx = NULL;
  movie *m = calloc(1, sizeof *m);
  if (m == NULL) {
    cm_fail(CM_NO_MEMORY, "no memory for a decoder");
    return NULL;
  }
  m->source.descriptor = -1;
  return m;
}

cm_status cm_movie_open_file(const char *path, const cm_movie_limits *limits, double follow, cm_movie *result) {
  movie *m = new_movie(result);
  if (m == NULL) return CM_NO_MEMORY;
  cm_status status = cm_source_open(&m->source, path, follow);
  if (status != CM_OK) {
    free(m);
    return status;
  }
  return finish_opening(m, limits, result);
}

cm_status cm_movie_open_memory(const uint8_t *bytes, size_t count, const cm_movie_limits *limits, cm_movie *result) {
  movie *m = new_movie(result);
  if (m == NULL) return CM_NO_MEMORY;
  m->source.bytes = bytes;
  m->source.size = (int64_t)count;
  return finish_opening(m, limits, result);
}

cm_status cm_movie_open_descriptor(int descriptor, const cm_movie_limits *limits, cm_movie *result) {
  movie *m = new_movie(result);
  if (m == NULL) return CM_NO_MEMORY;
  m->source.descriptor = descriptor;
  m->source.waits = 1;
  return finish_opening(m, limits, result);
}

void cm_movie_cancel(cm_movie handle) {
  movie *m = handle.ctx;
  if (m != NULL) atomic_store(&m->cancelled, 1);
}

// MARK: Description

cm_status cm_movie_describe(cm_movie handle, cm_movie_info *info) {
  movie *m = handle.ctx;
  if (m == NULL) return cm_fail(CM_BAD_ARGUMENT, "no movie");
  *info = (cm_movie_info){.streams = (int)m->format->nb_streams, .orientation = m->orientation};
  info->container = m->format->iformat->name;
  info->video_codec = info->audio_codec = "";
  for (unsigned i = 0; i < m->format->nb_streams; i++) {
    if (is_picture_track(m->format->streams[i])) info->video_tracks++;
    if (m->format->streams[i]->codecpar->codec_type == AVMEDIA_TYPE_AUDIO) info->audio_tracks++;
  }
  info->start = m->format->start_time == AV_NOPTS_VALUE ? 0 : (double)m->format->start_time / AV_TIME_BASE;
  int is_guessed = m->format->duration_estimation_method == AVFMT_DURATION_FROM_BITRATE;
  info->duration = m->format->duration <= 0 || is_guessed ? -1 : (double)m->format->duration / AV_TIME_BASE;
  if (m->video >= 0) {
    const AVStream *stream = m->format->streams[m->video];
    info->width = stream->codecpar->width;
    info->height = stream->codecpar->height;
    info->time_base_numerator = stream->time_base.num;
    info->time_base_denominator = stream->time_base.den;
    AVRational rate = stream->avg_frame_rate.num > 0 ? stream->avg_frame_rate : stream->r_frame_rate;
    info->reorder_delay = stream->codecpar->video_delay;
    info->rate_numerator = rate.num;
    info->rate_denominator = rate.den;
    info->video_codec = avcodec_get_name(stream->codecpar->codec_id);
  }
  if (m->audio >= 0) {
    const AVCodecParameters *p = m->format->streams[m->audio]->codecpar;
    info->sample_rate = p->sample_rate;
    info->channels = p->ch_layout.nb_channels;
    info->audio_codec = avcodec_get_name(p->codec_id);
  }
  return CM_OK;
}
