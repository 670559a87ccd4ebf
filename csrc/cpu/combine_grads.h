// Gradients of combine, one row of one output at a time, for up to four paths or for any number.
#pragma once

#include "cpu/combine.h"

namespace mpk::cpu::MPK_NAMESPACE {

// One part of one sample. What the gradients of parameters need is summed to `of.dots` (without
// biases) and, a channel each, to `sums` and `products` (of D_j sum_i g_ij U_ij).
template <class A>
struct Part {
  const CombineBackward& c;
  const Coefficients<A>& of;
  int64_t b;
  Block rows;
  A* sums;      // [n, C'], or null
  A* products;  // [n, C'], or null
  bool streamed;

  Part(const CombineBackward& c, const Coefficients<A>& of, int64_t b, int64_t part, bool streamed)
      : c(c),
        of(of),
        b(b),
        rows(combine_part(of.p.geometry, part)),
        sums(place(c.sums, part)),
        products(place(c.products, part)),
        streamed(streamed) {}

  A* place(void* base, int64_t part) const {
    const Geometry& geometry = of.p.geometry;
    const int64_t parts = combine_sum_parts(geometry);
    const int64_t at = b * parts + (geometry.channels_last ? part : 0);
    return base ? static_cast<A*>(base) + at * of.p.outputs * geometry.channels : nullptr;
  }
  Paths us() const { return {of.p.us, of.p.inputs, b}; }
  Paths grad_us() const { return {c.grad_us, of.p.inputs, b}; }
  template <class T>
  const T* grad_y(int64_t j, int64_t r) const {
    return Paths{c.grad_ys + j, 1, b}.row<const T>(0, r);
  }
  bool used(int64_t j) const { return c.grad_ys[j].data != nullptr; }
  bool wanted(int64_t i) const { return c.grad_us[i].data != nullptr; }
};

// Where the gradients of a row go: to their maps, or to a staging buffer from where they are
// streamed, or forgotten where they are not wanted.
template <class T, int M>
struct GradTarget {
  static constexpr int64_t columns = 2048 / int64_t(sizeof(T));
  alignas(64) T staged[M][columns];
  T* row[M];  // null where the gradient is not wanted
  bool streamed, direct;

  template <class A>
  GradTarget(const Part<A>& part, int64_t j, int64_t r)
      : streamed(part.streamed), direct(!part.streamed) {
    for (int i = 0; i < M; i++) {
      row[i] =
          part.wanted(i) ? prediction_row<T>(part.of.p.geometry, part.grad_us(), i, j, r) : nullptr;
      direct &= row[i] != nullptr;
    }
  }
  int64_t block() const { return direct ? INT64_MAX : columns; }
  T* at(int i, int64_t col) { return streamed || !row[i] ? staged[i] : row[i] + col; }
  void finish(int64_t col, int64_t count) {
    for (int i = 0; streamed && i < M; i++)
      if (row[i]) stream(row[i] + col, staged[i], count * int64_t(sizeof(T)));
  }
};

// Sums of one row: of all its columns in NCHW, where it is a channel. In channels_last each column
// is one, and is summed in memory.
template <class A, bool CHANNELS_LAST>
struct RowSums {
  Vec<A> d = {}, product = {};

  template <class Lanes>
  inline __attribute__((always_inline)) void add(Lanes lanes, const Part<A>& part, int64_t at,
                                                 Vec<A> grad, Vec<A> sum) {
    if constexpr (CHANNELS_LAST) {
      if (part.sums) lanes.store(part.sums + at, Vec<A>(lanes.load(part.sums + at) + grad));
      if (part.products)
        lanes.store(part.products + at, Vec<A>(lanes.load(part.products + at) + grad * sum));
    } else {
      d += grad;
      product += grad * sum;
    }
  }
};

// Row r of output j of M paths.
template <class T, int M, bool CHANNELS_LAST, class A = Accumulate<T>>
inline void grads_of_row(const Part<A>& part, int64_t j, int64_t r,
                         RowSums<A, CHANNELS_LAST>& sums) {
  const Coefficients<A>& of = part.of;
  const Geometry& geometry = of.p.geometry;
  const int64_t channel = j * geometry.channels;
  const Weights<A, M> g(of.gates + j * M);
  const Vec<A> edge = of.edge;
  GradTarget<T, M> target(part, j, r);
  Vec<A> dots[M] = {};
  for_blocks(part.rows.cols, target.block(), [&](int64_t begin, int64_t end) {
    const OfChannels<A, CHANNELS_LAST> scales(of.scale + channel, r, begin);
    const OfChannels<A, CHANNELS_LAST> offsets(of.offset + channel, r, begin);
    const T *u[M], *grad_y = part.template grad_y<T>(j, r) + begin;
    T* grad_u[M];
    for (int i = 0; i < M; i++) {
      u[i] = prediction_row<const T>(geometry, part.us(), i, j, r) + begin;
      grad_u[i] = target.at(i, begin);
    }
    for_lanes<A>(end - begin, [&](auto lanes, int64_t at) {
      Vec<A> value[M];
      for (int i = 0; i < M; i++) value[i] = lanes.load(u[i] + at);
      Vec<A> sum = value[0] * g.at[0];
      for (int i = 1; i < M; i++) sum += value[i] * g.at[i];
      const Vec<A> scale = scales.at(lanes, at), y = sum * scale + offsets.at(lanes, at);
      const Vec<A> d = y <= edge ? Vec<A>{} : lanes.load(grad_y + at), scaled = d * scale;
      sums.add(lanes, part, channel + begin + at, d, sum);
      for (int i = 0; i < M; i++) {
        dots[i] += scaled * value[i];
        fetch_to_write(grad_u[i] + at);
        lanes.store(grad_u[i] + at, Vec<A>(scaled * g.at[i]));
      }
    });
    target.finish(begin, end - begin);
  });
  for (int i = 0; i < M; i++) of.dots[j * M + i] += dots[i];
}

// The same for any number of paths: scale_j D_j first, then path by path.
template <class T, bool CHANNELS_LAST, class A = Accumulate<T>>
inline void grads_of_row_of_any(const Part<A>& part, int64_t j, int64_t r,
                                RowSums<A, CHANNELS_LAST>& sums) {
  const Coefficients<A>& of = part.of;
  const Geometry& geometry = of.p.geometry;
  const int64_t channel = j * geometry.channels;
  const A* g = of.gates + j * of.p.inputs;
  const Paths us = part.us(), grad_us = part.grad_us();
  constexpr int64_t most = 512;
  alignas(64) A scaled[most];
  for_blocks(part.rows.cols, most, [&](int64_t begin, int64_t end) {
    const OfChannels<A, CHANNELS_LAST> scales(of.scale + channel, r, begin);
    const OfChannels<A, CHANNELS_LAST> offsets(of.offset + channel, r, begin);
    const T* grad_y = part.template grad_y<T>(j, r) + begin;
    for_lanes<A>(end - begin, [&](auto lanes, int64_t at) {
      Vec<A> sum = {};
      for (int64_t i = 0; i < us.count; i++)
        sum += lanes.load(prediction_row<const T>(geometry, us, i, j, r) + begin + at) * g[i];
      const Vec<A> scale = scales.at(lanes, at), y = sum * scale + offsets.at(lanes, at);
      const Vec<A> d = y <= of.edge ? Vec<A>{} : lanes.load(grad_y + at);
      sums.add(lanes, part, channel + begin + at, d, sum);
      lanes.store(scaled + at, Vec<A>(d * scale));
    });
    for (int64_t i = 0; i < us.count; i++) {
      const T* u = prediction_row<const T>(geometry, us, i, j, r) + begin;
      T* grad_u = part.wanted(i) ? prediction_row<T>(geometry, grad_us, i, j, r) + begin : nullptr;
      Vec<A>& dot = of.dots[j * us.count + i];
      for_lanes<A>(end - begin, [&](auto lanes, int64_t at) {
        const Vec<A> d = lanes.load(scaled + at);
        dot += d * lanes.load(u + at);
        if (grad_u) lanes.store(grad_u + at, Vec<A>(d * g[i]));
      });
    }
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
