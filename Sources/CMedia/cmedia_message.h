#pragma once
// Shared by the files of this target, unseen by Swift.

#include "cmedia.h"

/// Keeps one line of detail for `cm_last_message` on this thread and returns `status`.
cm_status cm_fail(cm_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
