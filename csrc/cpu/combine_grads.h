// Gradients of combine, one row of one output at a time, for up to four paths or for any number.
#pragma once

#include "cpu/combine.h"

namespace mpk::cpu::MPK_NAMESPACE {

// Sums over the rows of a part: those of some rows first, which are then added to all.
template <class A>
struct GroupSums {
  static constexpr int64_t most_rows = 32;
  Vec<A>*dots, *all_dots;  // [n, m]
  A *sums, *products;      // channels_last: [n, C'] of the group

  int64_t gates, channels;  // m n, n C'

  GroupSums(const Predictions& p, void* scratch)
      : dots(static_cast<Vec<A>*>(scratch)),
        all_dots(dots + p.inputs * p.outputs),
        sums(reinterpret_cast<A*>(all_dots + p.inputs * p.outputs)),
        products(sums + p.outputs * p.geometry.channels),
        gates(p.inputs * p.outputs),
        channels(p.outputs * p.geometry.channels) {}

  void clear() const {
    for (int64_t q = 0; q < gates; q++) dots[q] = all_dots[q] = Vec<A>{};
    for (int64_t c = 0; c < 2 * channels; c++) sums[c] = 0;
  }
  void finish_dots() const {
    for (int64_t q = 0; q < gates; q++) {
      all_dots[q] += dots[q];
      dots[q] = Vec<A>{};
    }
  }
  // Adds `group`, the sums or the products, to those of the part.
  void finish(A* group, A* all) const {
    for_lanes<A>(channels, [&](auto lanes, int64_t c) {
      lanes.store(all + c, Vec<A>(lanes.load(all + c) + lanes.load(group + c)));
      lanes.store(group + c, Vec<A>{});
    });
  }
};

// One part of one sample. What the gradients of parameters need is summed to `group.all_dots` and,
// a channel each, to `sums` and `products` (of D_j T_j).
template <class A>
struct Part {
  const CombineBackward& c;
  const Coefficients<A>& of;
  const GroupSums<A>& group;
  int64_t b;
  Block rows;
  A* sums;      // [n, C'], or null
  A* products;  // [n, C'], or null
  bool streamed;

  Part(const CombineBackward& c, const Coefficients<A>& of, const GroupSums<A>& group, int64_t b,
       int64_t part, bool streamed)
      : c(c),
        of(of),
        group(group),
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
  // channels_last: the sums of a group from column `begin` of output j on, or null.
  A* sums_from(int64_t j, int64_t begin) const {
    return sums ? group.sums + j * of.p.geometry.channels + begin : nullptr;
  }
  A* products_from(int64_t j, int64_t begin) const {
    return products ? group.products + j * of.p.geometry.channels + begin : nullptr;
  }
  Paths us() const { return {.maps = of.p.us, .count = of.p.inputs, .sample = b}; }
  Paths grad_us() const { return {.maps = c.grad_us, .count = of.p.inputs, .sample = b}; }
  template <class T>
  const T* grad_y(int64_t j, int64_t r) const {
    return Paths{.maps = c.grad_ys + j, .count = 1, .sample = b}.row<const T>(0, r);
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
  Vec<A> d, product;

  // `sums` and `products` are those of the columns; null where they are not wanted.
  template <class Lanes>
  inline __attribute__((always_inline)) void add(Lanes lanes, A* sums, A* products, int64_t at,
                                                 Vec<A> grad, Vec<A> sum) {
    if constexpr (CHANNELS_LAST) {
      if (sums) lanes.store(sums + at, Vec<A>(lanes.load(sums + at) + grad));
      if (products) lanes.store(products + at, Vec<A>(lanes.load(products + at) + grad * sum));
    } else {
      d += grad;
      product += grad * sum;
    }
  }
  RowSums& operator+=(const RowSums& other) {
    d += other.d;
    product += other.product;
    return *this;
  }
};

// Sums of a stretch of a row: its own and, of M paths, <scale_j D_j, U_ij + b_ij>.
template <class A, bool CHANNELS_LAST, int M>
struct StretchSums {
  RowSums<A, CHANNELS_LAST> row;
  Vec<A> dots[M];
  StretchSums& operator+=(const StretchSums& other) {
    row += other.row;
    for (int i = 0; i < M; i++) dots[i] += other.dots[i];
    return *this;
  }
};

// Columns that a chain of vectors takes. What is staged divides them.
template <class A>
inline constexpr int64_t stretch = longest_chain * lanes_of<Vec<A>>;

// Columns [start, start + size) of row r of output j of M paths, whose sums are added to `row` and
// `dots`. All that the loop reads is local: a store to a map could change anything else in the
// compiler's eyes.
template <class T, int M, bool CHANNELS_LAST, class A = Accumulate<T>>
inline __attribute__((always_inline)) void grads_of_stretch(const Part<A>& part, int64_t j,
                                                            int64_t r, GradTarget<T, M>& target,
                                                            int64_t start, int64_t size,
                                                            RowSums<A, CHANNELS_LAST>& row,
                                                            Vec<A>* dots) {
  const Coefficients<A>& of = part.of;
  const Geometry& geometry = of.p.geometry;
  const Weights<A, M> g(of.gates + j * M);
  const Vec<A> edge = of.edge;
  RowSums<A, CHANNELS_LAST> own{};
  Vec<A> own_dots[M] = {};
  for_blocks(size, target.block(), [&](int64_t first, int64_t last) __attribute__((always_inline)) {
    const int64_t begin = start + first;
    const OfChannels<A, CHANNELS_LAST> scales(of.scale(j), r, begin), shifts(of.shift(j), r, begin);
    const Biases<A, CHANNELS_LAST, M> biases(of, j, r, begin);
    A* const sums = part.sums_from(j, begin);
    A* const products = part.products_from(j, begin);
    const T *u[M], *grad_y = part.template grad_y<T>(j, r) + begin;
    T* grad_u[M];
    for (int i = 0; i < M; i++) {
      u[i] = prediction_row<const T>(geometry, part.us(), i, j, r) + begin;
      grad_u[i] = target.at(i, begin);
    }
    for_lanes<A>(last - first, [&](auto lanes, int64_t at) __attribute__((always_inline)) {
      Vec<A> value[M];
      for (int i = 0; i < M; i++) value[i] = lanes.load(u[i] + at) + biases.of[i].at(lanes, at);
      Vec<A> sum = value[0] * g.at[0];
      for (int i = 1; i < M; i++) sum += value[i] * g.at[i];
      const Vec<A> scale = scales.at(lanes, at), y = sum * scale + shifts.at(lanes, at);
      const Vec<A> d = y <= edge ? Vec<A>{} : lanes.load(grad_y + at), scaled = d * scale;
      own.add(lanes, sums, products, at, d, sum);
      for (int i = 0; i < M; i++) {
        own_dots[i] += scaled * value[i];
        fetch_to_write(grad_u[i] + at);
        lanes.store(grad_u[i] + at, Vec<A>(scaled * g.at[i]));
      }
    });
    target.finish(begin, last - first);
  });
  if constexpr (!CHANNELS_LAST) row += own;
  for (int i = 0; i < M; i++) dots[i] += own_dots[i];
}

template <class T, int M, bool CHANNELS_LAST, class A = Accumulate<T>>
__attribute__((noinline)) void grads_of_long_row(const Part<A>& part, int64_t j, int64_t r,
                                                 RowSums<A, CHANNELS_LAST>& row, Vec<A>* dots) {
  const int64_t cols = part.rows.cols;
  GradTarget<T, M> target(part, j, r);
  const auto all = pairwise_sum(blocks_of(cols, stretch<A>), [&](int64_t block) {
    const int64_t start = block * stretch<A>, size = std::min(stretch<A>, cols - start);
    StretchSums<A, CHANNELS_LAST, M> sums{};
    grads_of_stretch(part, j, r, target, start, size, sums.row, sums.dots);
    return sums;
  });
  row += all.row;
  for (int i = 0; i < M; i++) dots[i] += all.dots[i];
}

// Row r of output j of M paths.
template <class T, int M, bool CHANNELS_LAST, class A = Accumulate<T>>
inline __attribute__((always_inline)) void grads_of_row(const Part<A>& part, int64_t j, int64_t r,
                                                        RowSums<A, CHANNELS_LAST>& row) {
  Vec<A>* dots = part.group.dots + j * M;
  if (part.rows.cols > stretch<A>)
    return grads_of_long_row<T, M, CHANNELS_LAST>(part, j, r, row, dots);
  GradTarget<T, M> target(part, j, r);
  grads_of_stretch(part, j, r, target, 0, part.rows.cols, row, dots);
}

// The same for any number of paths: scale_j D_j of a stretch first, then path by path.
template <class T, bool CHANNELS_LAST, class A = Accumulate<T>>
inline void grads_of_row_of_any(const Part<A>& part, int64_t j, int64_t r,
                                RowSums<A, CHANNELS_LAST>& row) {
  const Coefficients<A>& of = part.of;
  const Geometry& geometry = of.p.geometry;
  const int64_t cols = part.rows.cols;
  const A* g = of.gates + j * of.p.inputs;
  const Paths us = part.us(), grad_us = part.grad_us();
  alignas(64) A scaled[stretch<A>];
  row += pairwise_sum(blocks_of(cols, stretch<A>), [&](int64_t block) {
    const int64_t begin = block * stretch<A>, size = std::min(stretch<A>, cols - begin);
    const OfChannels<A, CHANNELS_LAST> scales(of.scale(j), r, begin), shifts(of.shift(j), r, begin);
    const T* grad_y = part.template grad_y<T>(j, r) + begin;
    const auto value = [&](auto lanes, int64_t i, int64_t at) {
      const T* u = prediction_row<const T>(geometry, us, i, j, r) + begin;
      const OfChannels<A, CHANNELS_LAST> bias(of.bias(i, j), r, begin);
      return Vec<A>(lanes.load(u + at) + bias.at(lanes, at));
    };
    RowSums<A, CHANNELS_LAST> sums{};
    A *of_sums = part.sums_from(j, begin), *of_products = part.products_from(j, begin);
    for_lanes<A>(size, [&](auto lanes, int64_t at) {
      Vec<A> sum = {};
      for (int64_t i = 0; i < us.count; i++) sum += value(lanes, i, at) * g[i];
      const Vec<A> scale = scales.at(lanes, at), y = sum * scale + shifts.at(lanes, at);
      const Vec<A> d = y <= of.edge ? Vec<A>{} : lanes.load(grad_y + at);
      sums.add(lanes, of_sums, of_products, at, d, sum);
      lanes.store(scaled + at, Vec<A>(d * scale));
    });
    for (int64_t i = 0; i < us.count; i++) {
      T* grad_u = part.wanted(i) ? prediction_row<T>(geometry, grad_us, i, j, r) + begin : nullptr;
      Vec<A> dot = {};
      for_lanes<A>(size, [&](auto lanes, int64_t at) {
        const Vec<A> d = lanes.load(scaled + at);
        dot += d * value(lanes, i, at);
        if (grad_u) lanes.store(grad_u + at, Vec<A>(d * g[i]));
      });
      part.group.dots[j * us.count + i] += dot;
    }
    if ((block + 1) % longest_chain == 0) part.group.finish_dots();
    return sums;
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
