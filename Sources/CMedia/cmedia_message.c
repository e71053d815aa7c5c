#include "cmedia_message.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char message[512];

const char *cm_last_message(void) { return message; }

cm_status cm_fail(cm_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  // One line: what a library wrote over several is joined, and control characters from a file do not reach a terminal.
  for (char *c = message; *c; c++) {
    if ((unsigned char)*c < 32 || *c == 127) *c = ' ';
  }
  return status;
}
