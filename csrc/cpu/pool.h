// Z = mean of X over its positions (Eq. 1). Reads |X| once.
//
// A channel's positions are added in one order, however many channels a call pools.
#pragma once

#include "cpu/paths.h"

namespace mpk::cpu::MPK_NAMESPACE {

// Sums of the lanes of rows[r], for up to as many rows as lanes, times `scale` to z.
template <class A>
inline void store_sums(Vec<A> (&rows)[lanes_of<Vec<A>>], int64_t count, A scale, A* z) {
  constexpr int step = lanes_of<Vec<A>>;
  const Vec<A> sums = sum_each(rows) * scale;
  if (count >= step)
    store(z, sums);
  else
    store_first(z, sums, int(count));
}

// NCHW, channels [first, last): as many rows as lanes at a time, so that the sums over lanes of
// all of them cost one tree of shuffles.
template <class T, class A = Accumulate<T>>
inline void pool_rows(const Paths& xs, int64_t path, int64_t first, int64_t last, int64_t positions,
                      A* z) {
  using V = Vec<A>;
  constexpr int step = lanes_of<V>;
  for (int64_t c = first; c < last; c += step) {
    V sums[step] = {};
    for (int64_t r = 0; r < step && c + r < last; r++) {
      const T* x = xs.row<const T>(path, c + r);
      V sum = {};
      for_lanes<A>(positions, [&](auto lanes, int64_t at) { sum += lanes.load(x + at); });
      sums[r] = sum;
    }
    store_sums<A>(sums, last - c, A(1) / A(positions), z + c);
  }
}

// channels_last, channels [first, last): columns of up to eight vectors are summed down the rows, a
// few rows at a time so that what is read lies together.
template <class T, class A = Accumulate<T>>
inline void pool_cols(const Paths& xs, int64_t path, int64_t first, int64_t last, int64_t positions,
                      A* z) {
  using V = Vec<A>;
  constexpr int step = lanes_of<V>;
  const A scale = A(1) / A(positions);
  const int64_t block = 1 + 2048 / (last > first ? last - first : 1);
  int64_t begin = 0, end = 0;
  do {  // once at least: the mean of nothing is NaN
    begin = end;
    end = positions - begin < block ? positions : begin + block;
    const auto sum_down = [&](auto vectors, auto lanes, int64_t c) {
      constexpr int count = decltype(vectors)::value;
      V sums[count] = {};
      for (int k = 0; begin > 0 && k < count; k++) sums[k] = lanes.load(z + c + k * step);
      for (int64_t s = begin; s < end; s++) {
        const T* x = xs.row<const T>(path, s) + c;
        for (int k = 0; k < count; k++) sums[k] += lanes.load(x + k * step);
      }
      for (int k = 0; k < count; k++)
        lanes.store(z + c + k * step, end == positions ? V(sums[k] * scale) : sums[k]);
    };
    int64_t c = first;
    const auto in_steps_of = [&](auto vectors) {
      constexpr int width = decltype(vectors)::value * step;
      for (; c + width <= last; c += width) sum_down(vectors, Whole<A>{}, c);
    };
    in_steps_of(Count<8>{});  // one vector at a time would wait for each addition
    in_steps_of(Count<4>{});
    in_steps_of(Count<2>{});
    for_lanes<A>(last - c, [&](auto lanes, int64_t at) { sum_down(Count<1>{}, lanes, c + at); });
  } while (end < positions);
}

// Means of channels [first, last) of one sample to z, [m, C].
template <class T, class A = Accumulate<T>>
inline void pool(const Geometry& geometry, const Paths& xs, int64_t first, int64_t last, A* z) {
  const auto rows = geometry.channels_last ? pool_cols<T, A> : pool_rows<T, A>;
  for (int64_t i = 0; i < xs.count; i++)
    rows(xs, i, first, last, geometry.positions, z + i * geometry.channels);
}

}  // namespace mpk::cpu::MPK_NAMESPACE
