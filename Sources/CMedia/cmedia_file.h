#pragma once
// Shared by the files of this target that open paths, unseen by Swift.

#include <sys/stat.h>

#include "cmedia_message.h"

/// The status and the words for an `errno` after opening or reading.
cm_status cm_file_status(int error);

/// `CM_OK` for a regular file; what else it is, otherwise.
cm_status cm_file_check_kind(const struct stat *found);
