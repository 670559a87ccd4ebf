// Gradients of combine. With T_j = sum_i g_ij (U_ij + b_ij) and D_j = dY_j where the ReLU is on:
//
//   dU_ij = g_ij scale_j D_j             dg_ij = <scale_j D_j, U_ij + b_ij>, a sum for each sample
//   db_ij = scale_j sum g_ij D_j         dscale_j = sum D_j T_j, dshift_j = sum D_j, a channel each
//
// Reads each U_i and dY_j once and writes each dU_i once: the ReLU is computed again from U. A sum
// over positions is made once for each channel, and all others follow from these.
#include "cpu/combine_grads.h"
#include "cpu/entry.h"
#include "cpu/kernels.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

// NCHW: output j of rows of the part, each one channel.
template <class T, int M, class A = Accumulate<T>>
void grads_of_channels(const Part<A>& part, int64_t j) {
  const Coefficients<A>& of = part.of;
  const Geometry& geometry = of.p.geometry;
  constexpr int step = lanes_of<Vec<A>>;
  const Weights<A, M> g(of.gates + j * M);
  GradTarget<T, M, 1> target(part.grad_us(), part.streamed);
  OutputDots<A, M> dots(of, j);
  for (int64_t first = part.rows.first; first < part.rows.last; first += step) {
    const int64_t left = part.rows.last - first, count = left < step ? left : step;
    const int64_t channel = j * geometry.channels + first;
    Vec<A> sums[step] = {}, products[step] = {};
    for (int64_t q = 0; q < count; q++) {
      const int64_t r = first + q;
      const Vec<A> scale = Vec<A>{} + of.scale[channel + q];
      const Vec<A> offset = Vec<A>{} + of.offset[channel + q], edge = of.edge;
      Vec<A> scaled[M];
      for (int i = 0; i < M; i++) scaled[i] = scale * g.at[i];
      Sums<A, M> sum;
      for_blocks(part.rows.cols, target.block(), [&](int64_t begin, int64_t end) {
        const Pointers<T, M, 1> at(part, target, j, r, begin);
        for_lanes<A>(end - begin, [&](auto lanes, int64_t col) {
          sum.add(lanes, at.u[0], at.grad_y[0], at.grad_u[0], col, g, scaled, scale, offset, edge);
        });
        target.finish(geometry, j, r, begin, end - begin);
      });
      for (int i = 0; i < M; i++) {
        const A* bias = of.bias(i, j);
        dots.at[i] += scale * (bias ? Vec<A>(sum.products[i] + sum.d * bias[r]) : sum.products[i]);
      }
      sums[q] = sum.d;
      if (part.products) products[q] = sum.of_product(g, Vec<A>{} + of.biases[channel + q]);
    }
    if (part.sums) store_sums<A>(sums, count, A(1), part.sums + channel);
    if (part.products) store_sums<A>(products, count, A(1), part.products + channel);
  }
}

// channels_last: output j of ROWS rows, each one position; a lane is one channel.
template <class T, int M, int ROWS, class A = Accumulate<T>>
void grads_of_positions(const Part<A>& part, int64_t j, int64_t r) {
  const Coefficients<A>& of = part.of;
  const Geometry& geometry = of.p.geometry;
  const Weights<A, M> g(of.gates + j * M);
  const Vec<A> edge = of.edge;
  GradTarget<T, M, ROWS> target(part.grad_us(), part.streamed);
  OutputDots<A, M> dots(of, j);
  for_blocks(part.rows.cols, target.block(), [&](int64_t begin, int64_t end) {
    const Pointers<T, M, ROWS> at(part, target, j, r, begin);
    const int64_t first = j * geometry.channels + begin;
    for_lanes<A>(end - begin, [&](auto lanes, int64_t col) {
      const Vec<A> scale = lanes.load(of.scale + first + col);
      const Vec<A> offset = lanes.load(of.offset + first + col);
      Vec<A> scaled[M];
      for (int i = 0; i < M; i++) scaled[i] = scale * g.at[i];
      Sums<A, M> sum;
      for (int q = 0; q < ROWS; q++)
        sum.add(lanes, at.u[q], at.grad_y[q], at.grad_u[q], col, g, scaled, scale, offset, edge);
      for (int i = 0; i < M; i++) {
        const A* bias = of.bias(i, j);
        if (bias) sum.products[i] += sum.d * lanes.load(bias + begin + col);
        dots.at[i] += scale * sum.products[i];
      }
      if (part.sums) {
        A* to = part.sums + first + col;
        lanes.store(to, Vec<A>(lanes.load(to) + sum.d));
      }
      if (part.products) {  // biases are in the products already
        A* to = part.products + first + col;
        lanes.store(to, Vec<A>(lanes.load(to) + sum.of_product(g, Vec<A>{})));
      }
    });
    target.finish(geometry, j, r, begin, end - begin);
  });
}

// Row r of output j for any number of paths, in either format: D first, then path by path.
template <class T, bool CHANNELS_LAST, class A = Accumulate<T>>
void grads_of_any(const Part<A>& part, int64_t j, int64_t r) {
  const Coefficients<A>& of = part.of;
  const Geometry& geometry = of.p.geometry;
  const int64_t channels = geometry.channels;
  const A* g = of.gates + j * of.p.inputs;
  const Paths us = part.us(), grad_us = part.grad_us();
  constexpr int64_t most = 512;
  alignas(64) A scaled[most];  // scale_j D_j
  Vec<A> sum = {}, product = {};
  for_blocks(part.rows.cols, most, [&](int64_t begin, int64_t end) {
    const OfChannels<A, CHANNELS_LAST> scale(of.scale + j * channels, r, begin);
    const OfChannels<A, CHANNELS_LAST> offset(of.offset + j * channels, r, begin);
    const OfChannels<A, CHANNELS_LAST> biases(of.biases + j * channels, r, begin);
    const T* grad_y = part.template grad_y<T>(j, r) + begin;
    for_lanes<A>(end - begin, [&](auto lanes, int64_t at) {
      Vec<A> t = {};
      for (int64_t i = 0; i < us.count; i++)
        t += lanes.load(prediction_row<const T>(geometry, us, i, j, r) + begin + at) * g[i];
      const Vec<A> y = t * scale.at(lanes, at) + offset.at(lanes, at);
      const Vec<A> d = y <= of.edge ? Vec<A>{} : lanes.load(grad_y + at);
      const Vec<A> dt = d * (t + biases.at(lanes, at));
      lanes.store(scaled + at, Vec<A>(d * scale.at(lanes, at)));
      if constexpr (CHANNELS_LAST) {
        const int64_t c = j * channels + begin + at;
        if (part.sums) lanes.store(part.sums + c, Vec<A>(lanes.load(part.sums + c) + d));
        if (part.products)
          lanes.store(part.products + c, Vec<A>(lanes.load(part.products + c) + dt));
      } else {
        sum += d;
        product += dt;
      }
    });
    for (int64_t i = 0; i < us.count; i++) {
      const T* u = prediction_row<const T>(geometry, us, i, j, r) + begin;
      T* grad_u = part.wanted(i) ? prediction_row<T>(geometry, grad_us, i, j, r) + begin : nullptr;
      const A* of_path = of.bias(i, j);
      const OfChannels<A, CHANNELS_LAST> bias(of_path ? of_path : of.scale, r, begin);
      Vec<A>& dot = of.dots[j * us.count + i];
      for_lanes<A>(end - begin, [&](auto lanes, int64_t at) {
        const Vec<A> d = lanes.load(scaled + at);
        Vec<A> value = lanes.load(u + at);
        if (of_path) value += bias.at(lanes, at);
        dot += d * value;
        if (grad_u) lanes.store(grad_u + at, Vec<A>(d * g[i]));
      });
    }
  });
  if constexpr (!CHANNELS_LAST) {
    if (part.sums) part.sums[j * channels + r] = sum_lanes(sum);
    if (part.products) part.products[j * channels + r] = sum_lanes(product);
  }
}

// An output without a gradient: dU_ij of rows is 0.
template <class T, class A>
void clear_row(const Part<A>& part, int64_t j, int64_t r) {
  const Geometry& geometry = part.of.p.geometry;
  for (int64_t i = 0; i < part.of.p.inputs; i++)
    if (part.wanted(i))
      std::memset(prediction_row<T>(geometry, part.grad_us(), i, j, r), 0,
                  part.rows.cols * sizeof(T));
  if (geometry.channels_last) return;
  if (part.sums) part.sums[j * geometry.channels + r] = 0;
  if (part.products) part.products[j * geometry.channels + r] = 0;
}

template <class T, int M, bool CHANNELS_LAST, class A = Accumulate<T>>
void grads_of_part(const Part<A>& part) {
  const int64_t n = part.of.p.outputs;
  const Block& rows = part.rows;
  const auto used = [&](int64_t j) { return part.c.grad_ys[j].data != nullptr; };
  if constexpr (CHANNELS_LAST) {
    const size_t bytes = n * rows.cols * sizeof(A);
    if (part.sums) std::memset(part.sums, 0, bytes);
    if (part.products) std::memset(part.products, 0, bytes);
    constexpr int group = 4;
    for (int64_t r = rows.first; r < rows.last;) {
      const int64_t count = M > 0 && rows.last - r >= group ? group : 1;
      for (int64_t j = 0; j < n; j++) {
        if (!used(j))
          for (int64_t q = 0; q < count; q++) clear_row<T>(part, j, r + q);
        else if constexpr (M == 0)
          grads_of_any<T, true>(part, j, r);
        else if (count == group)
          grads_of_positions<T, M, group>(part, j, r);
        else
          grads_of_positions<T, M, 1>(part, j, r);
      }
      r += count;
    }
  } else {
    for (int64_t j = 0; j < n; j++) {
      if constexpr (M > 0)
        if (used(j)) {
          grads_of_channels<T, M>(part, j);
          continue;
        }
      for (int64_t r = rows.first; r < rows.last; r++)
        used(j) ? grads_of_any<T, false>(part, j, r) : clear_row<T>(part, j, r);
    }
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
    Coefficients<A> of(p, scratch);
    for_parts(
        p.geometry, begin, end, [&](int64_t b) { of.read(b); },
        [&](int64_t b, int64_t at) {
          const int64_t gates = p.inputs * p.outputs;
          for (int64_t q = 0; q < gates; q++) of.dots[q] = Vec<A>{};
          grads_of_part<T, m, channels_last>(Part<A>(c, of, b, at, streamed));
          A* dots = static_cast<A*>(c.dots) + (b * combine_parts(p.geometry) + at) * gates;
          for (int64_t i = 0; i < p.inputs; i++)
            for (int64_t j = 0; j < p.outputs; j++)
              dots[i * p.outputs + j] = sum_lanes(of.dots[j * p.inputs + i]);
        });
  });
  if (streamed) finish_streams();
}

}  // namespace mpk::cpu::MPK_NAMESPACE
