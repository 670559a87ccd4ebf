// Gradients of combine. With T_j = sum_i g_ij (U_ij + b_ij) and D_j = dY_j where the ReLU is on:
//
//   dU_ij = g_ij scale_j D_j             dg_ij = <scale_j D_j, U_ij + b_ij>, a sum for each sample
//   db_ij = scale_j sum g_ij D_j         dscale_j = sum D_j T_j, dshift_j = sum D_j, a channel each
//
// Reads each U_i and dY_j once and writes each dU_i once: the ReLU is computed again from U.
#include "cpu/combine_grads.h"
#include "cpu/kernels.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

// An output without a gradient: dU_ij of a row is 0.
template <class T, class A>
void clear_row(const Part<A>& part, int64_t j, int64_t r) {
  for (int64_t i = 0; i < part.of.p.inputs; i++)
    if (part.wanted(i))
      std::memset(prediction_row<T>(part.of.p.geometry, part.grad_us(), i, j, r), 0,
                  part.rows.cols * sizeof(T));
}

template <class T, int M, bool CHANNELS_LAST, class A = Accumulate<T>>
inline __attribute__((always_inline)) void row_of(const Part<A>& part, int64_t j, int64_t r,
                                                  RowSums<A, CHANNELS_LAST>& row) {
  if (!part.used(j))
    clear_row<T>(part, j, r);
  else if constexpr (M > 0)
    grads_of_row<T, M, CHANNELS_LAST>(part, j, r, row);
  else
    grads_of_row_of_any<T, CHANNELS_LAST>(part, j, r, row);
}

// Whether a group ends with row r.
template <class A>
bool ends_group(const Part<A>& part, int64_t r) {
  return (r + 1 - part.rows.first) % GroupSums<A>::most_rows == 0 || r + 1 == part.rows.last;
}

// NCHW: rows of output j are channels. Sums over lanes are taken for as many rows at a time as
// there are lanes.
template <class T, int M, class A = Accumulate<T>>
void grads_of_channels(const Part<A>& part, int64_t j) {
  constexpr int step = lanes_of<Vec<A>>;
  for (int64_t first = part.rows.first; first < part.rows.last; first += step) {
    const int64_t left = part.rows.last - first, count = left < step ? left : step;
    Vec<A> d[step] = {}, products[step] = {};
    for (int64_t q = 0; q < count; q++) {
      RowSums<A, false> sums{};
      row_of<T, M, false>(part, j, first + q, sums);
      d[q] = sums.d;
      products[q] = sums.product;
      if (ends_group(part, first + q)) part.group.finish_dots();
    }
    const int64_t channel = j * part.of.p.geometry.channels + first;
    if (part.sums) store_sums<A>(d, count, A(1), part.sums + channel);
    if (part.products) store_sums<A>(products, count, A(1), part.products + channel);
  }
}

// channels_last: rows are positions, of which each channel is a column.
template <class T, int M, class A = Accumulate<T>>
void grads_of_positions(const Part<A>& part) {
  const int64_t n = part.of.p.outputs;
  const size_t bytes = size_t(part.group.channels) * sizeof(A);
  if (part.sums) std::memset(part.sums, 0, bytes);
  if (part.products) std::memset(part.products, 0, bytes);
  RowSums<A, true> none{};
  for (int64_t r = part.rows.first; r < part.rows.last; r++) {
    for (int64_t j = 0; j < n; j++) row_of<T, M, true>(part, j, r, none);
    if (!ends_group(part, r)) continue;
    part.group.finish_dots();
    if (part.sums) part.group.finish(part.group.sums, part.sums);
    if (part.products) part.group.finish(part.group.products, part.products);
  }
}

template <class T, int M, bool CHANNELS_LAST, class A = Accumulate<T>>
void grads_of_part(const Part<A>& part) {
  part.group.clear();
  if constexpr (CHANNELS_LAST) {
    grads_of_positions<T, M>(part);
  } else {
    for (int64_t j = 0; j < part.of.p.outputs; j++) grads_of_channels<T, M>(part, j);
  }
}

// Whether all dU are streamed. A piece of a row is a whole number of lines, as rows are.
bool streams_grads(const CombineBackward& c) {
  const Predictions& p = c.predictions;
  Geometry all = p.geometry;
  all.channels *= p.outputs;
  return p.inputs <= 4 && p.geometry.cols() * bytes_of(all.dtype) % 64 == 0 &&
         streams(all, c.grad_us, p.inputs);
}

}  // namespace

void combine_backward(const CombineBackward& c, int64_t begin, int64_t end, void* scratch) {
  const Predictions& p = c.predictions;
  const bool streamed = streams_grads(c);
  visit_predictions(p, [&](auto zero, auto m, auto channels_last) {
    using T = decltype(zero);
    using A = Accumulate<T>;
    const GroupSums<A> group(p, scratch);
    Coefficients<A> of(p, group.products + group.channels);
    for_parts(
        p.geometry, begin, end, [&](int64_t b) { of.read(b); },
        [&](int64_t b, int64_t at) {
          grads_of_part<T, m, channels_last>(Part<A>(c, of, group, b, at, streamed));
          A* dots = static_cast<A*>(c.dots) + (b * combine_parts(p.geometry) + at) * group.gates;
          for (int64_t i = 0; i < p.inputs; i++)
            for (int64_t j = 0; j < p.outputs; j++)
              dots[i * p.outputs + j] = sum_lanes(group.all_dots[j * p.inputs + i]);
        });
  });
  if (streamed) finish_streams();
}

}  // namespace mpk::cpu::MPK_NAMESPACE
