// What both directions of combine share: a sample's coefficients, and where its predictions lie.
#pragma once

#include <limits>

#include "cpu/gather.h"
#include "cpu/mix.h"

namespace mpk::cpu::MPK_NAMESPACE {

// Coefficients of Y_j = relu(scale_j sum_i g_ij U_ij + offset_j) for one sample.
template <class A>
struct Coefficients {
  const Predictions& p;
  Vec<A>* dots;    // [n, m], for the backward
  A* gates;        // [n, m]
  A* biases;       // [n, C']: sum_i g_ij b_ij
  A* offset;       // [n, C']
  const A* scale;  // [n, C']
  // What is not above it becomes 0. Nothing is below NaN, so that it stands for no ReLU.
  Vec<A> edge;

  Coefficients(const Predictions& p, void* scratch)
      : p(p),
        dots(static_cast<Vec<A>*>(scratch)),
        gates(reinterpret_cast<A*>(dots + p.inputs * p.outputs)),
        biases(gates + p.inputs * p.outputs),
        offset(biases + p.outputs * p.geometry.channels),
        scale(static_cast<const A*>(p.scale)),
        edge(Vec<A>{} + (p.relu ? A(0) : std::numeric_limits<A>::quiet_NaN())) {}

  const A* bias(int64_t i, int64_t j) const {
    const int64_t channels = p.geometry.channels;
    return p.bias ? static_cast<const A*>(p.bias) + (i * p.outputs + j) * channels : nullptr;
  }

  void read(int64_t b) {
    gather(p.gates, b, p.inputs, p.outputs, nullptr, 1, true, gates);
    const int64_t channels = p.geometry.channels;
    const A* shift = static_cast<const A*>(p.shift);
    for (int64_t j = 0; j < p.outputs; j++)
      for_lanes<A>(channels, [&](auto lanes, int64_t c) {
        Vec<A> sum = {};
        for (int64_t i = 0; p.bias && i < p.inputs; i++)
          sum += lanes.load(bias(i, j) + c) * gates[j * p.inputs + i];
        const int64_t at = j * channels + c;
        lanes.store(biases + at, sum);
        sum *= lanes.load(scale + at);
        lanes.store(offset + at, shift ? Vec<A>(sum + lanes.load(shift + at)) : sum);
      });
  }
};

// Values [C'] of one output, beside columns of its row r.
template <class A, bool CHANNELS_LAST>
struct OfChannels {
  const A* columns = nullptr;
  Vec<A> row = {};

  OfChannels(const A* values, int64_t r, int64_t col) {
    if constexpr (CHANNELS_LAST)
      columns = values + col;
    else
      row += values[r];
  }
  template <class Lanes>
  Vec<A> at(Lanes lanes, int64_t col) const {
    if constexpr (CHANNELS_LAST)
      return lanes.load(columns + col);
    else
      return row;
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
  return {part * rows, last < geometry.rows() ? last : geometry.rows(), geometry.cols()};
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
