#pragma once
// EXIF's eight orientations as steps through the stored pixels, unseen by Swift.

#include <stdint.h>

/// The stored pixel that lands at (0, 0), and the steps to take for one pixel to the right and one down.
typedef struct {
  int64_t start, right, below;
} cm_steps;

/// `width` and `height` are as stored, `pixel` and `row` the distances from one pixel and from one row to the next.
static inline cm_steps cm_orientation_steps(int orientation, int64_t width, int64_t height, int64_t pixel, int64_t row) {
  int64_t last = (width - 1) * pixel, bottom = (height - 1) * row;
  switch (orientation) {
    case 2: return (cm_steps){last, -pixel, row};            // mirrored left to right
    case 3: return (cm_steps){bottom + last, -pixel, -row};  // upside down
    case 4: return (cm_steps){bottom, pixel, -row};          // mirrored top to bottom
    case 5: return (cm_steps){0, row, pixel};                // mirrored on the main diagonal
    case 6: return (cm_steps){bottom, -row, pixel};          // to be turned clockwise
    case 7: return (cm_steps){bottom + last, -row, -pixel};  // mirrored on the other diagonal
    case 8: return (cm_steps){last, row, -pixel};            // to be turned anticlockwise
    default: return (cm_steps){0, pixel, row};
  }
}
