// Bytes for FFmpeg: from a file, a pipe or memory. FFmpeg sees these functions only and opens nothing itself.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cmedia_file.h"
#include "cmedia_moving_private.h"

double cm_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int cm_interrupted(void *opaque) {
  movie *m = opaque;
  return atomic_load(&m->cancelled) || cm_now() > m->deadline;
}

cm_status cm_source_open(cm_source *source, const char *path, double follow) {
  struct stat found;
  if (stat(path, &found) != 0) return cm_file_status(errno);
  int may_wait = follow > 0;
  int is_pipe = S_ISFIFO(found.st_mode);
  if (!(may_wait && is_pipe)) {
    cm_status status = cm_file_check_kind(&found);
    if (status != CM_OK) return status;
  }
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file < 0) return cm_file_status(errno);
  // Looked at again once it is open, since the path may have been given another file in between.
  cm_status status = CM_OK;
  if (fstat(file, &found) != 0) {
    status = cm_file_status(errno);
  } else if (!(may_wait && S_ISFIFO(found.st_mode))) {
    status = cm_file_check_kind(&found);
  }
  if (status != CM_OK) {
    close(file);
    return status;
  }
  source->descriptor = file;
  source->owned = 1;
  source->waits = may_wait;
  source->grows = may_wait && S_ISREG(found.st_mode);
  source->patience = follow;
  source->size = found.st_size;
  return CM_OK;
}

/// Whether reading must stop; remembers that it did.
static int must_stop(movie *m) {
  if (!cm_interrupted(m)) return 0;
  m->has_stalled = 1;
  return 1;
}

/// Waits until a pipe has bytes or has ended; 0, or an error of FFmpeg's.
static int wait_for_pipe(movie *m) {
  for (;;) {
    if (must_stop(m)) return AVERROR_EXIT;
    struct pollfd look = {.fd = m->source.descriptor, .events = POLLIN};
    int ready = poll(&look, 1, 50);
    if (ready > 0) return 0;
    if (ready < 0 && errno != EINTR) return AVERROR(errno);
  }
}

static int read_bytes(void *opaque, uint8_t *buffer, int room) {
  movie *m = opaque;
  cm_source *s = &m->source;
  if (room <= 0) return AVERROR(EINVAL);
  if (s->descriptor < 0) {
    int64_t left = s->size - s->position;
    if (left <= 0) return AVERROR_EOF;
    int count = left < room ? (int)left : room;
    memcpy(buffer, s->bytes + s->position, (size_t)count);
    s->position += count;
    return count;
  }
  double since = cm_now();
  for (;;) {
    if (must_stop(m)) return AVERROR_EXIT;
    if (s->waits && !s->grows) {
      int status = wait_for_pipe(m);
      if (status != 0) return status;
    }
    ssize_t got = read(s->descriptor, buffer, (size_t)room);
    if (got > 0) {
      // What arrives counts as progress: only silence ends a stream.
      if (s->waits) cm_begin(m);
      return (int)got;
    }
    if (got < 0 && (errno == EINTR || (errno == EAGAIN && s->waits))) continue;
    if (got < 0) return AVERROR(errno);
    if (!s->grows || cm_now() - since >= s->patience) return AVERROR_EOF;
    // A file that is waited for is no file that stalls.
    cm_begin(m);
    poll(NULL, 0, 20);
  }
}

static int64_t seek_bytes(void *opaque, int64_t offset, int whence) {
  movie *m = opaque;
  cm_source *s = &m->source;
  if (whence & AVSEEK_SIZE) return s->size;
  whence &= ~AVSEEK_FORCE;
  if (s->descriptor >= 0) {
    off_t place = lseek(s->descriptor, offset, whence);
    return place < 0 ? AVERROR(errno) : place;
  }
  int64_t from = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? s->position : s->size;
  if (offset < -from || offset > s->size - from) return AVERROR(EINVAL);
  s->position = from + offset;
  return s->position;
}

AVIOContext *cm_source_input(movie *m) {
  enum { kBuffer = 64 << 10 };
  uint8_t *buffer = av_malloc(kBuffer);
  if (buffer == NULL) return NULL;
  AVIOContext *io = avio_alloc_context(buffer, kBuffer, 0, m, read_bytes, NULL, m->source.waits ? NULL : seek_bytes);
  if (io == NULL) {
    av_free(buffer);
    return NULL;
  }
  io->seekable = m->source.waits ? 0 : AVIO_SEEKABLE_NORMAL;
  return io;
}
