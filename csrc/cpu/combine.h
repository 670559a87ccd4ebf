// What both directions of combine share: a sample's coefficients, and where its predictions lie.
#pragma once

#include <limits>

#include "cpu/mix.h"
#include "cpu/sample.h"

namespace mpk::cpu::MPK_NAMESPACE {

// What Y_j = relu(scale_j sum_i g_ij (U_ij + b_ij) + shift_j) of one sample needs beside U.
template <class A>
struct Coefficients {
  const Predictions& p;
  A* gates;  // [n, m]
  // Values <= edge become 0. Without a ReLU edge is NaN, to which no value compares <=.
  Vec<A> edge;

  Coefficients(const Predictions& p, void* scratch)
      : p(p),
        gates(static_cast<A*>(scratch)),
        edge(Vec<A>{} + (p.relu ? A(0) : std::numeric_limits<A>::quiet_NaN())) {}

  const A* bias(int64_t i, int64_t j) const {
    return static_cast<const A*>(p.bias) + (i * p.outputs + j) * p.geometry.channels;
  }
  const A* scale(int64_t j) const {
    return static_cast<const A*>(p.scale) + j * p.geometry.channels;
  }
  const A* shift(int64_t j) const {
    return static_cast<const A*>(p.shift) + j * p.geometry.channels;
  }
  void read(int64_t b) { gather(p.gates, b, p.inputs, p.outputs, nullptr, 1, true, gates); }
};

// Values [C'] of one output, beside columns of its row r from `col` on.
template <class A, bool CHANNELS_LAST>
struct OfChannels {
  const A* columns = nullptr;
  Vec<A> row = {};

  OfChannels() = default;
  OfChannels(const A* values, int64_t r, int64_t col) {
    if constexpr (CHANNELS_LAST)
      columns = values + col;
    else
      row += values[r];
  }
  template <class Lanes>
  inline __attribute__((always_inline)) Vec<A> at(Lanes lanes, int64_t col) const {
    if constexpr (CHANNELS_LAST)
      return lanes.load(columns + col);
    else
      return row;
  }
};

// The biases of M paths for output j.
template <class A, bool CHANNELS_LAST, int M>
struct Biases {
  OfChannels<A, CHANNELS_LAST> of[M];
  Biases(const Coefficients<A>& from, int64_t j, int64_t r, int64_t col) {
    for (int i = 0; i < M; i++) of[i] = OfChannels<A, CHANNELS_LAST>(from.bias(i, j), r, col);
  }
};

// Row r of U_ij, or of its gradient.
template <class T>
inline T* prediction_row(const Geometry& geometry, const Paths& us, int64_t i, int64_t j,
                         int64_t r) {
  const int64_t first = j * geometry.channels;
  return geometry.channels_last ? us.row<T>(i, r) + first : us.row<T>(i, first + r);
}

inline Block combine_part(const Geometry& geometry, int64_t part) {
  const int64_t rows = combine_part_rows(geometry), last = (part + 1) * rows;
  return {.first = part * rows,
          .last = last < geometry.rows() ? last : geometry.rows(),
          .cols = geometry.cols()};
}

// Calls body(b, part) for parts [begin, end) of all samples, and new_sample(b) before a sample.
template <class NewSample, class Body>
inline void for_parts(const Geometry& geometry, int64_t begin, int64_t end, NewSample new_sample,
                      Body body) {
  const int64_t parts = combine_parts(geometry);
  for (int64_t at = begin; at < end; at++) {
    if (at == begin || at % parts == 0) new_sample(at / parts);
    body(at / parts, at % parts);
  }
}

// body(T, Count<M>, CHANNELS_LAST), all as values of which only the type matters.
template <class Body>
inline void visit_predictions(const Predictions& p, Body body) {
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    visit_count(p.inputs, [&](auto m) {
      if (p.geometry.channels_last)
        body(zero, m, std::true_type{});
      else
        body(zero, m, std::false_type{});
    });
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
