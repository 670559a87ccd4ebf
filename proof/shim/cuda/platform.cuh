// Stands in for csrc/cuda/platform.cuh on a CPU; see machine.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <source_location>

#include "machine.h"

#define MPK_DEVICE inline

namespace mpk::cuda {

struct bf16 {
  uint16_t bits;
  bf16() = default;
  explicit bf16(float x) {
    uint32_t all;
    std::memcpy(&all, &x, 4);
    // Rounds to nearest, ties to even; NaN stays NaN.
    bits = x != x ? uint16_t(0x7fc0) : uint16_t((all + 0x7fff + (all >> 16 & 1)) >> 16);
  }
};
using f16 = _Float16;

template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
  T values[W];
};
template <class T>
constexpr int vector_size = 16 / sizeof(T);

using Where = std::source_location;
SHIM_UNSEEN inline shim::Site site_of(const Where& where) {
  return {.file = where.file_name(), .line = int(where.line())};
}

SHIM_UNSEEN inline int thread() { return shim::current->thread; }
SHIM_UNSEEN inline int threads() { return shim::now.threads; }
SHIM_UNSEEN inline int64_t block() { return shim::blocks[shim::current->block].index; }
SHIM_UNSEEN inline float* shared_memory() {
  return reinterpret_cast<float*>(shim::blocks[shim::current->block].memory);
}

SHIM_UNSEEN inline void sync_block(const Where& where = Where::current()) {
  const shim::Site site = site_of(where);
  if (shim::is_skipped(site)) return;
  shim::Barrier& barrier = shim::blocks[shim::current->block].barrier;
  shim::check_same_site(site);
  shim::wait(barrier, shim::arrive(barrier), site);
}
SHIM_UNSEEN inline float shuffle_xor(float value, int lane, const Where& where = Where::current()) {
  return shim::exchange(value, lane, site_of(where));
}

SHIM_UNSEEN inline void sync_cluster(int cluster, const Where& where = Where::current()) {
  if (cluster == 1) return sync_block(where);
  if (!shim::is_skipped(site_of(where))) shim::sync_cluster(site_of(where));
}
SHIM_UNSEEN inline void leave_cluster(int cluster, const Where& where = Where::current()) {
  if (cluster > 1 && !shim::is_skipped(site_of(where))) shim::leave_cluster();
}
SHIM_UNSEEN inline void wait_cluster(int cluster, const Where& where = Where::current()) {
  if (cluster > 1 && !shim::is_skipped(site_of(where))) shim::wait_cluster(site_of(where));
}
SHIM_UNSEEN inline const float* remote(const float* at, int rank) {
  if (rank >= shim::now.cluster) shim::fail("there is no block of this rank", {});
  const char* mine = shim::blocks[shim::current->block].memory;
  return reinterpret_cast<const float*>(shim::blocks[rank].memory +
                                        (reinterpret_cast<const char*>(at) - mine));
}

template <int W, class T>
inline void check_alignment(const T* at) {
  if (reinterpret_cast<uintptr_t>(at) % (sizeof(T) * W))
    shim::fail("an address is not aligned", {});
}

template <int W, class T>
inline Pack<T, W> fetch(const T* at) {
  check_alignment<W>(at);
  Pack<T, W> pack;
  std::memcpy(&pack, at, sizeof pack);
  return pack;
}
template <int W, class T>
inline Pack<T, W> read(const T* at) {
  shim::touch(at, sizeof(T) * W, false);
  return fetch<W>(at);
}
template <int W, class T>
inline void write(T* at, const Pack<T, W>& pack) {
  shim::touch(at, sizeof pack, true);
  check_alignment<W>(at);
  std::memcpy(at, &pack, sizeof pack);
}
inline float read_float(const float* at) { return read<1>(at).values[0]; }
inline void write_float(float* at, float value) { write<1>(at, Pack<float, 1>{value}); }

template <int W, class T>
inline void copy_async(T* to, const T* from) {
  check_alignment<W>(to);
  const Pack<T, W> pack = read<W>(from);
  if constexpr (sizeof pack == 16)
    shim::copy_later(to, from);
  else
    std::memcpy(to, &pack, sizeof pack);
}
SHIM_UNSEEN inline void end_copy_group() { shim::current->group++; }
template <int pending>
inline void wait_copies(const Where& where = Where::current()) {
  if (shim::is_skipped(site_of(where))) return;
  for (shim::Copy copy; shim::next_copy(pending, copy);) std::memcpy(copy.to, copy.from, 16);
}

inline float exponential(float x) { return std::exp(x); }

inline float widen(float x) { return x; }
inline float widen(f16 x) { return float(x); }
inline float widen(bf16 x) {
  const uint32_t all = uint32_t(x.bits) << 16;
  float wide;
  std::memcpy(&wide, &all, 4);
  return wide;
}
template <class T, int W>
inline void narrow(const float (&from)[W], Pack<T, W>& to) {
  for (int e = 0; e < W; e++) to.values[e] = T(from[e]);
}

}  // namespace mpk::cuda
