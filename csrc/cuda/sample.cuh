// A block's part of a sample: its tiles, and their sums over space.
#pragma once

#include "cuda/plan.h"
#include "cuda/platform.cuh"

namespace mpk::cuda {

// Whole rows, and some of the channels (NCHW: the rows), whose sums this block finishes.
struct Part {
  int64_t sample;
  int rank;
  int first_row, rows;
  int first_channel, channels;
};

MPK_DEVICE int limited(int count, int most) { return count < 0 ? 0 : count < most ? count : most; }

MPK_DEVICE Part part_of(const Plan& plan) {
  Part part;
  part.sample = block() / plan.cluster;
  part.rank = int(block() % plan.cluster);
  part.first_row = part.rank * plan.rows_per_block;
  part.rows = limited(plan.rows - part.first_row, plan.rows_per_block);
  part.first_channel = part.rank * plan.channels_per_block;
  part.channels = limited(plan.channels - part.first_channel, plan.channels_per_block);
  return part;
}

// Where element `at` of the part of a map lies, counted along its rows.
template <class T>
MPK_DEVICE T* place(const Map& map, const Plan& plan, const Part& part, int at) {
  T* first =
      static_cast<T*>(map.data) + part.sample * map.batch_stride + part.first_row * map.row_stride;
  if (plan.dense) return first + at;
  const int row = at / plan.cols;
  return first + row * map.row_stride + (at - row * plan.cols);
}

template <class T>
MPK_DEVICE T* tile_of(const Plan& plan, int kept) {
  return reinterpret_cast<T*>(shared_memory()) + kept * plan.tile;
}

// Starts the copy of the part of a map to a tile.
template <class T>
MPK_DEVICE void load_tile(const Map& map, const Plan& plan, const Part& part, T* tile) {
  const int size = part.rows * plan.cols;
  if (plan.wide) {
    constexpr int W = vector_size<T>;
    for (int at = thread() * W; at < size; at += threads() * W)
      copy_async<W>(tile + at, place<const T>(map, plan, part, at));
  } else {
    for (int at = thread(); at < size; at += threads())
      copy_async<1>(tile + at, place<const T>(map, plan, part, at));
  }
  end_copy_group();
}

template <class T, int W>
MPK_DEVICE float sum_of(const Pack<T, W>& pack) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < W; e++) sum += widen(pack.values[e]);
  return sum;
}

// Sum over `lanes` neighbouring lanes, a power of two; every lane has the same bits. All lanes of
// a warp must take part.
MPK_DEVICE float sum_lanes(float value, int lanes) {
  for (int d = lanes / 2; d > 0; d /= 2) value += shuffle_xor(value, d);
  return value;
}

// NCHW: the mean of each row of a tile.
template <class T, int W>
MPK_DEVICE void pool_rows_by(const Plan& plan, const Part& part, const T* tile, float* z) {
  const int lanes = plan.lanes_per_row, lane = thread() % lanes, mine = thread() / lanes;
  for (int first = 0; first < part.rows; first += threads() / lanes) {
    const int row = first + mine;
    float sum = 0;
    const int stretch = longest_chain * lanes * W;
    for (int begin = 0; row < part.rows && begin < plan.cols; begin += stretch) {
      const int end = limited(plan.cols, begin + stretch);
      float of_chain = 0;
      for (int at = begin + lane * W; at < end; at += lanes * W)
        of_chain += sum_of(fetch<W>(tile + row * plan.cols + at));
      sum += of_chain;
    }
    sum = sum_lanes(sum, lanes);
    if (row < part.rows && lane == 0) z[row] = sum / float(plan.positions);
  }
}

template <class T>
MPK_DEVICE void pool_rows(const Plan& plan, const Part& part, const T* tile, float* z) {
  if (plan.wide_rows)
    pool_rows_by<T, vector_size<T>>(plan, part, tile, z);
  else
    pool_rows_by<T, 1>(plan, part, tile, z);
}

template <class T, int W>
MPK_DEVICE void sum_groups(const Plan& plan, const Part& part, const T* tile, float* scratch) {
  const int steps = plan.cols / W;
  for (int at = thread(); at < plan.groups * steps; at += threads()) {
    const int group = at / steps, col = at % steps * W;
    float sum[W] = {};
    for (int row = group; row < part.rows; row += plan.groups) {
      const Pack<T, W> pack = fetch<W>(tile + row * plan.cols + col);
#pragma unroll
      for (int e = 0; e < W; e++) sum[e] += widen(pack.values[e]);
    }
#pragma unroll
    for (int e = 0; e < W; e++) scratch[group * plan.cols + col + e] = sum[e];
  }
}

// channels_last: the sum of each column of a tile, groups of rows side by side, then the groups.
template <class T>
MPK_DEVICE void sum_columns(const Plan& plan, const Part& part, const T* tile, float* scratch,
                            float* sums) {
  if (plan.wide_rows)
    sum_groups<T, vector_size<T>>(plan, part, tile, scratch);
  else
    sum_groups<T, 1>(plan, part, tile, scratch);
  sync_block();
  for (int c = thread(); c < plan.channels; c += threads()) {
    float sum = 0;
    for (int group = 0; group < plan.groups; group++) sum += scratch[group * plan.cols + c];
    sums[c] = sum;
  }
}

// The sum of a value of every block of the cluster, in the order of their ranks. All of them must
// have written it, and met.
MPK_DEVICE float sum_over_cluster(const Plan& plan, const float* value) {
  float sum = 0;
  for (int rank = 0; rank < plan.cluster; rank++) sum += *remote(value, rank);
  return sum;
}

}  // namespace mpk::cuda
