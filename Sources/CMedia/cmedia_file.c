// Reading a whole regular file, with its size known and agreed to before any memory is asked for.

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmedia_file.h"

cm_status cm_file_status(int error) {
  if (error == ENOENT || error == ENOTDIR) return cm_fail(CM_NO_SUCH_FILE, "%s", strerror(error));
  return cm_fail(CM_UNREADABLE, "%s", strerror(error));
}

cm_status cm_file_check_kind(const struct stat *found) {
  if (S_ISREG(found->st_mode)) return CM_OK;
  if (S_ISDIR(found->st_mode)) return cm_fail(CM_IS_DIRECTORY, "a folder");
  const char *kind = S_ISFIFO(found->st_mode)   ? "a named pipe"
                     : S_ISSOCK(found->st_mode) ? "a socket"
                     : S_ISCHR(found->st_mode)  ? "a character device"
                     : S_ISBLK(found->st_mode)  ? "a block device"
                                                : "a special file";
  return cm_fail(CM_NOT_REGULAR, "%s", kind);
}

static cm_status read_file(
  const char *path, size_t limit, int only_start, uint8_t **bytes, size_t *count) {
  *bytes = NULL;
  *count = 0;
  struct stat found;
  // Looked at before it is opened, since opening some devices already does something ...
  if (stat(path, &found) != 0) return cm_file_status(errno);
  cm_status status = cm_file_check_kind(&found);
  if (status != CM_OK) return status;
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file < 0) return cm_file_status(errno);
  // ... and again once it is open, since the path may have been given another file in between.
  if (fstat(file, &found) != 0) {
    status = cm_file_status(errno);
    close(file);
    return status;
  }
  status = cm_file_check_kind(&found);
  if (status != CM_OK) {
    close(file);
    return status;
  }
  size_t size = found.st_size < 0 ? 0 : (size_t)found.st_size;
  if (size > limit && only_start) size = limit;
  if (size > limit) {
    close(file);
    *count = size;
    return cm_fail(CM_TOO_LARGE, "%zu bytes", size);
  }
  uint8_t *memory = malloc(size > 0 ? size : 1);
  if (memory == NULL) {
    close(file);
    return cm_fail(CM_NO_MEMORY, "no memory for %zu bytes", size);
  }
  size_t done = 0;
  while (done < size) {
    ssize_t got = read(file, memory + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      status = cm_file_status(errno);
      free(memory);
      close(file);
      return status;
    }
    if (got == 0) break;  // it became shorter meanwhile: what there is is judged by the decoder
    done += (size_t)got;
  }
  close(file);
  *bytes = memory;
  *count = done;
  return CM_OK;
}

cm_status cm_file_read(const char *path, size_t limit, uint8_t **bytes, size_t *count) {
  return read_file(path, limit, 0, bytes, count);
}

cm_status cm_file_read_start(const char *path, size_t most, uint8_t **bytes, size_t *count) {
  return read_file(path, most, 1, bytes, count);
}

void cm_free(uint8_t *bytes) { free(bytes); }
