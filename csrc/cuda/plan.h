// How the blocks of a cluster share a sample, and where a block keeps what in its shared memory.
//
// Fixed by the geometry and the size of the cluster, never by the batch: a sample's result does not
// depend on its company. mpkernels/ops/onchip.py counts the same bytes; a test compares.
#pragma once

#include <cstdint>

#include "cuda/launch.h"
#include "problem.h"

namespace mpk::cuda {

// Where the values of a block begin, in floats from the start of its shared memory. The tiles of
// the kept maps come first. The exchanged values are those that other blocks of the cluster read.
struct Offsets {
  int32_t exchanged;    // [m, K] parts of W1 z; backward: before them the dots [m, kept]
  int32_t parameters;   // b1 [m, K], w2 [m, n, K], b2 [m, n]
  int32_t z;            // [m, channels of the block]: means, finished by this block
  int32_t hidden;       // [m, K]
  int32_t gates;        // [m, n]
  int32_t sums;         // forward, channels_last, exchanged: [m, C], of the block's rows
  int32_t scratch;      // forward, channels_last: [groups, C]; backward: dots [warps, m, kept]
  int32_t grad_gates;   // backward: [m, n], then the gradients of the logits
  int32_t grad_hidden;  // backward: [m, K]
  int32_t grad_z;       // backward, exchanged: [m, channels of the block]
  int32_t grad_z_all;   // backward, channels_last: [m, C]
  int32_t end;
};

struct Plan {
  int32_t cluster;  // blocks of a sample
  int32_t threads;  // of a block
  int32_t rows, cols, channels, positions;
  int32_t inputs, outputs, hidden, kept;
  int32_t rows_per_block, channels_per_block;
  int32_t tile;           // elements of a tile, a multiple of 16 bytes
  int32_t lanes_per_row;  // NCHW: lanes of a warp that sum a row together
  int32_t groups;         // channels_last: groups of rows that are summed side by side
  bool channels_last;
  bool wide_rows;  // rows are whole vectors of 16 bytes, hence start at one in a tile
  bool wide;       // all maps are read and written 16 bytes at a time
  bool dense;      // the rows of all maps follow each other without gaps
  Offsets at;
};

// Terms that one accumulator takes before its sum goes to the next one, so that the error of a long
// sum does not grow with its length.
constexpr int longest_chain = 256;

constexpr int32_t ceil_div(int64_t size, int64_t by) { return int32_t((size + by - 1) / by); }
constexpr int32_t round_up(int64_t size, int64_t to) { return int32_t((size + to - 1) / to * to); }

// Elements of 16 bytes.
inline int32_t vector_of(Dtype dtype) { return int32_t(16 / bytes_of(dtype)); }

// A block that is alone on a multiprocessor has all loads to itself; two share the registers.
inline int32_t threads_for(int64_t kept_bytes) { return kept_bytes > 114688 ? 512 : 256; }

// The fewest rows that are whole vectors: parts of so many rows begin at 16 bytes.
inline int32_t row_unit(const Geometry& geometry) {
  int32_t unit = vector_of(geometry.dtype);
  while (unit > 1 && geometry.cols() * (unit / 2) % vector_of(geometry.dtype) == 0) unit /= 2;
  return unit;
}

inline void place_values(Plan& plan, int64_t tile_floats, bool backward) {
  int64_t next = tile_floats;
  const auto take = [&](int64_t size) {
    const int64_t begin = next;
    next += round_up(size, 4);
    return int32_t(begin);
  };
  const int64_t m = plan.inputs, n = plan.outputs, units = m * plan.hidden;
  Offsets& at = plan.at;
  at.exchanged = take(units + (backward ? m * plan.kept : 0));
  at.parameters = take(units + n * units + m * n);
  at.z = take(m * plan.channels_per_block);
  at.hidden = take(units);
  at.gates = take(m * n);
  at.sums = take(plan.channels_last && !backward ? m * plan.channels : 0);
  at.scratch = take(backward             ? int64_t(plan.threads / 32) * m * plan.kept
                    : plan.channels_last ? int64_t(plan.groups) * plan.channels
                                         : 0);
  at.grad_gates = take(backward ? m * n : 0);
  at.grad_hidden = take(backward ? units : 0);
  at.grad_z = take(backward ? m * plan.channels_per_block : 0);
  at.grad_z_all = take(backward && plan.channels_last ? m * plan.channels : 0);
  at.end = int32_t(next);
}

// `kept`: m maps forward, backward the gradients that there are (at least one). threads 0: by rule.
// Access is 16 bytes wide and dense until `see` is told of a map for which it is not.
inline Plan plan_for(const Geometry& geometry, int64_t inputs, int64_t outputs, int64_t hidden,
                     int64_t kept, int64_t cluster, int64_t threads, bool backward) {
  const int32_t vector = vector_of(geometry.dtype);
  Plan plan{};
  plan.cluster = int32_t(cluster);
  plan.rows = int32_t(geometry.rows());
  plan.cols = int32_t(geometry.cols());
  plan.channels = int32_t(geometry.channels);
  plan.positions = int32_t(geometry.positions);
  plan.inputs = int32_t(inputs);
  plan.outputs = int32_t(outputs);
  plan.hidden = int32_t(hidden);
  plan.kept = int32_t(kept);
  plan.channels_last = geometry.channels_last;
  plan.rows_per_block = round_up(ceil_div(plan.rows, cluster), row_unit(geometry));
  plan.channels_per_block =
      plan.channels_last ? ceil_div(plan.channels, cluster) : plan.rows_per_block;
  plan.tile = round_up(int64_t(plan.rows_per_block) * plan.cols, vector);
  const int64_t kept_bytes = kept * plan.tile * bytes_of(geometry.dtype);
  plan.threads = threads > 0 ? int32_t(threads) : threads_for(kept_bytes);
  plan.wide = plan.dense = true;
  plan.wide_rows = plan.cols % vector == 0;
  const int32_t steps = plan.wide_rows ? plan.cols / vector : plan.cols;
  plan.lanes_per_row = 1;
  while (plan.lanes_per_row < 32 && plan.lanes_per_row < steps) plan.lanes_per_row *= 2;
  plan.groups = plan.threads / steps;
  if (plan.groups > plan.rows_per_block) plan.groups = plan.rows_per_block;
  if (plan.groups < 1) plan.groups = 1;
  place_values(plan, kept_bytes / 4, backward);
  return plan;
}

inline int64_t shared_bytes(const Plan& plan) { return int64_t(plan.at.end) * 4; }

// Narrows the access to maps where one of them needs it.
inline void see(Plan& plan, const Geometry& geometry, const Map* maps, int64_t count) {
  const int32_t vector = vector_of(geometry.dtype);
  for (int64_t q = 0; q < count; q++)
    if (maps[q].data && plan.rows > 1 && maps[q].row_stride != plan.cols) plan.dense = false;
  if (plan.dense ? int64_t(plan.rows) * plan.cols % vector : plan.cols % vector) plan.wide = false;
  for (int64_t q = 0; q < count; q++)
    if (maps[q].data && (reinterpret_cast<uintptr_t>(maps[q].data) % 16 ||
                         (geometry.batch > 1 && maps[q].batch_stride % vector) ||
                         (!plan.dense && maps[q].row_stride % vector)))
      plan.wide = false;
}

}  // namespace mpk::cuda
