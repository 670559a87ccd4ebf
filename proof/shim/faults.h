// Faults that a test plants in a kernel, to see that they are noticed.
#pragma once

#include <cstddef>
#include <cstring>

#include "context.h"

namespace shim {

// A line of the kernels.
struct Site {
  const char* file;
  int line;
};

inline Site skipped;        // a barrier that is left out
inline Site relaxed;        // a barrier of a cluster that orders no memory
inline size_t taken_bytes;  // of every block's shared memory

SHIM_UNSEEN inline bool is_at(Site fault, Site site) {
  return fault.line == site.line && fault.file && std::strstr(site.file, fault.file);
}
SHIM_UNSEEN inline bool is_skipped(Site site) { return is_at(skipped, site); }
SHIM_UNSEEN inline bool is_relaxed(Site site) { return is_at(relaxed, site); }

}  // namespace shim
