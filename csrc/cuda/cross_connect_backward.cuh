// Gradients of cross_connect (Eq. 8 and 9 with the pool and both layers of the gates), of samples
// whose gradients one block, or the blocks of one cluster, keep on chip.
//
// dX_i = sum_j g_ij dY_j + dZ_i / S needs only what is kept, so each dY_j element and each X_i
// element is loaded once: (m + n)|X| + m|X| bytes, and w1 twice per sample, from L2.
#pragma once

#include "cuda/gate.cuh"

namespace mpk::cuda {

struct CrossConnectBackwardArguments {
  Plan plan;
  GateArguments gate;
  Map xs[max_paths];
  Map grad_ys[max_kept];        // the gradients present; one zero tile if there is none
  int32_t output_of[max_kept];  // which output each of them is
  Map grad_xs[max_paths];       // data is null where no gradient is wanted
  const float* grad_gates;      // [B, m, n], or null
  const float* gates;           // [B, m, n]
  const float* pooled;          // [B, m, C]
  float* grad_logits;           // [B, m, n]
  float* grad_hidden;           // [B, m, K], before the ReLU
  float* hidden;                // [B, m, K], after the ReLU
  bool parameters_wanted;
};

inline CrossConnectBackwardArguments arguments_of(const CrossConnectBackward& p, int64_t cluster,
                                                  int64_t threads) {
  const GateParameters& gate = p.gate;
  const int64_t kept = p.present > 0 ? p.present : 1;
  CrossConnectBackwardArguments arguments{};
  arguments.plan =
      plan_for(p.geometry, gate.inputs, gate.outputs, gate.hidden, kept, cluster, threads, true);
  see(arguments.plan, p.geometry, p.xs, gate.inputs);
  see(arguments.plan, p.geometry, p.grad_ys, p.present);
  see(arguments.plan, p.geometry, p.grad_xs, gate.inputs);
  arguments.gate = arguments_of(gate);
  arguments.gate.b2 = nullptr;  // nothing reads it
  for (int64_t o = 0; o < p.present; o++) {
    arguments.grad_ys[o] = p.grad_ys[o];
    arguments.output_of[o] = int32_t(p.output_of[o]);
  }
  for (int64_t i = 0; i < gate.inputs; i++) {
    arguments.xs[i] = p.xs[i];
    arguments.grad_xs[i] = p.grad_xs[i];
  }
  arguments.grad_gates = static_cast<const float*>(p.grad_gates);
  arguments.gates = static_cast<const float*>(p.gates);
  arguments.pooled = static_cast<const float*>(p.pooled);
  arguments.grad_logits = static_cast<float*>(p.grad_logits);
  arguments.grad_hidden = static_cast<float*>(p.grad_hidden);
  arguments.hidden = static_cast<float*>(p.hidden);
  arguments.parameters_wanted = p.parameters_wanted;
  return arguments;
}

// Whatever fills a tile, a thread fills the elements that it will multiply itself.
template <class T>
MPK_DEVICE void load_or_clear(const Map& map, const Plan& plan, const Part& part, T* tile) {
  if (map.data) return load_tile(map, plan, part, tile);
  const int width = plan.wide ? vector_size<T> : 1;
  for (int at = thread() * width; at < part.rows * plan.cols; at += threads() * width)
    for (int e = 0; e < width; e++) tile[at + e] = T(0.f);
  end_copy_group();
}

// Z of the block's channels and the gates, from the forward.
MPK_DEVICE void load_saved(const CrossConnectBackwardArguments& p, const Part& part) {
  const Plan& plan = p.plan;
  float* values = shared_memory();
  for (int i = 0; i < plan.inputs; i++)
    load_values(p.pooled + (part.sample * plan.inputs + i) * plan.channels + part.first_channel,
                part.channels, values + plan.at.z + i * plan.channels_per_block);
  const int pairs = plan.inputs * plan.outputs;
  load_values(p.gates + part.sample * pairs, pairs, values + plan.at.gates);
}

// This thread's part of <dY_j, X_i> for all kept dY_j: of elements of dY_j that it copied itself,
// so that no barrier comes between. `ahead` loads are in flight at a time.
template <class T, int N, int W>
MPK_DEVICE void dot_elements(const Plan& plan, const Part& part, const Map& x, float (&dots)[N]) {
  constexpr int ahead = W > 1 ? 4 : 8;
  const int size = part.rows * plan.cols, step = threads() * W;
  for (int first = thread() * W; first < size; first += ahead * step) {
    Pack<T, W> xs[ahead];
#pragma unroll
    for (int u = 0; u < ahead; u++)
      if (first + u * step < size) xs[u] = read<W>(place<const T>(x, plan, part, first + u * step));
#pragma unroll
    for (int u = 0; u < ahead; u++) {
      if (first + u * step >= size) break;
#pragma unroll
      for (int o = 0; o < N; o++) {
        const Pack<T, W> dy = fetch<W>(tile_of<T>(plan, o) + first + u * step);
#pragma unroll
        for (int e = 0; e < W; e++) dots[o] += widen(xs[u].values[e]) * widen(dy.values[e]);
      }
    }
  }
}

// The dots of each warp, [warps, m, N], in scratch; those of maps that nothing reads are 0.
template <class T, int N>
MPK_DEVICE void dot_part(const CrossConnectBackwardArguments& p, const Part& part) {
  const Plan& plan = p.plan;
  float* to = shared_memory() + plan.at.scratch + thread() / 32 * plan.inputs * N;
  for (int i = 0; i < plan.inputs; i++) {
    float dots[N] = {};
    if (p.parameters_wanted || p.grad_xs[i].data) {
      if (plan.wide)
        dot_elements<T, N, vector_size<T>>(plan, part, p.xs[i], dots);
      else
        dot_elements<T, N, 1>(plan, part, p.xs[i], dots);
    }
#pragma unroll
    for (int o = 0; o < N; o++) {
      const float sum = sum_lanes(dots[o], 32);
      if (thread() % 32 == 0) to[i * N + o] = sum;
    }
  }
}

// The block's dots [m, N]: its warps' in order.
template <int N>
MPK_DEVICE void add_warps(const Plan& plan, float* dots) {
  const float* scratch = shared_memory() + plan.at.scratch;
  const int pairs = plan.inputs * N;
  for (int at = thread(); at < pairs; at += threads()) {
    float sum = 0;
    for (int warp = 0; warp < threads() / 32; warp++) sum += scratch[warp * pairs + at];
    dots[at] = sum;
  }
}

// d = dL/dG + <dY_j, X_i> of the whole sample.
template <int N>
MPK_DEVICE void finish_dots(const CrossConnectBackwardArguments& p, const Part& part,
                            const float* dots, float* d) {
  const Plan& plan = p.plan;
  const int pairs = plan.inputs * plan.outputs;
  for (int at = thread(); at < pairs; at += threads()) {
    float sum = p.grad_gates ? read_float(p.grad_gates + part.sample * pairs + at) : 0.f;
#pragma unroll
    for (int o = 0; o < N; o++)
      if (p.output_of[o] == at % plan.outputs)
        sum += sum_over_cluster(plan, dots + at / plan.outputs * N + o);
    d[at] = sum;
  }
}

MPK_DEVICE void store_values(const float* from, int size, float* to) {
  for (int at = thread(); at < size; at += threads()) write_float(to + at, from[at]);
}

MPK_DEVICE void store_gate_gradients(const CrossConnectBackwardArguments& p, const Part& part) {
  const Plan& plan = p.plan;
  const float* values = shared_memory();
  const int pairs = plan.inputs * plan.outputs, units = plan.inputs * plan.hidden;
  store_values(values + plan.at.grad_gates, pairs, p.grad_logits + part.sample * pairs);
  store_values(values + plan.at.grad_hidden, units, p.grad_hidden + part.sample * units);
  store_values(values + plan.at.hidden, units, p.hidden + part.sample * units);
}

// channels_last: blocks own rows of all channels, and gather dz from those that found it.
MPK_DEVICE void gather_grad_z(const Plan& plan) {
  float* values = shared_memory();
  sync_cluster(plan.cluster);
  for (int at = thread(); at < plan.inputs * plan.channels; at += threads()) {
    const int i = at / plan.channels, c = at % plan.channels, rank = c / plan.channels_per_block;
    const int from = i * plan.channels_per_block + c - rank * plan.channels_per_block;
    values[plan.at.grad_z_all + at] = *remote(values + plan.at.grad_z + from, rank);
  }
}

// The values of the channels of W elements from `col` of `row` on: of one channel in NCHW, one each
// in channels_last, unless the elements go on in the next row.
template <int W>
MPK_DEVICE void values_of_channels(const Plan& plan, const float* of_path, int row, int col,
                                   float (&to)[W]) {
#pragma unroll
  for (int e = 0; e < W; e++) {
    to[e] = of_path[plan.channels_last ? col : row];
    if (++col == plan.cols) {
      col = 0;
      row++;
    }
  }
}

template <class T, int N, int W>
MPK_DEVICE void grad_part(const CrossConnectBackwardArguments& p, const Part& part) {
  const Plan& plan = p.plan;
  const float* values = shared_memory();
  const float* gates = values + plan.at.gates;
  const float* grad_z = values + (plan.channels_last ? plan.at.grad_z_all : plan.at.grad_z);
  const int stride = plan.channels_last ? plan.channels : plan.channels_per_block;
  const int size = part.rows * plan.cols;
  for (int at = thread() * W; at < size; at += threads() * W) {
    const int row = at / plan.cols, col = at - row * plan.cols;
    Pack<T, W> dys[N];
#pragma unroll
    for (int o = 0; o < N; o++) dys[o] = fetch<W>(tile_of<T>(plan, o) + at);
    for (int i = 0; i < plan.inputs; i++) {
      if (!p.grad_xs[i].data) continue;
      float sum[W];
      if (plan.wide_rows && !plan.channels_last) {
        const float one = grad_z[i * stride + row];
#pragma unroll
        for (int e = 0; e < W; e++) sum[e] = one;
      } else {
        values_of_channels(plan, grad_z + i * stride, row, col, sum);
      }
#pragma unroll
      for (int o = 0; o < N; o++) {
        const float g = gates[i * plan.outputs + p.output_of[o]];
#pragma unroll
        for (int e = 0; e < W; e++) sum[e] += g * widen(dys[o].values[e]);
      }
      Pack<T, W> dx;
      narrow(sum, dx);
      write<W>(place<T>(p.grad_xs[i], plan, part, at), dx);
    }
  }
}

template <class T, int N>
MPK_DEVICE void cross_connect_backward_part(const CrossConnectBackwardArguments& p) {
  const Plan& plan = p.plan;
  const Part part = part_of(plan);
  float* values = shared_memory();
  float *dots = values + plan.at.exchanged, *products = dots + plan.inputs * N;
  float *hidden = values + plan.at.hidden, *d = values + plan.at.grad_gates;
#pragma unroll
  for (int o = 0; o < N; o++) load_or_clear(p.grad_ys[o], plan, part, tile_of<T>(plan, o));
  load_parameters(plan, p.gate);
  load_saved(p, part);
  sync_block();
  multiply_channels(plan, part, p.gate.w1, values + plan.at.z, products);
  wait_copies<0>();
  dot_part<T, N>(p, part);
  sync_block();
  add_warps<N>(plan, dots);
  sync_cluster(plan.cluster);
  finish_hidden(plan, products, hidden);
  finish_dots<N>(p, part, dots, d);
  sync_block();
  differentiate_gates(plan, p.gate.kind, values + plan.at.gates, d);
  sync_block();
  differentiate_hidden(plan, hidden, d, values + plan.at.grad_hidden);
  sync_block();
  differentiate_pool(plan, part, p.gate.w1, values + plan.at.grad_hidden, values + plan.at.grad_z);
  if (plan.channels_last) gather_grad_z(plan);
  leave_cluster(plan.cluster);
  sync_block();
  // After the last fence, which would wait for it.
  if (part.rank == 0 && p.parameters_wanted) store_gate_gradients(p, part);
  if (plan.wide)
    grad_part<T, N, vector_size<T>>(p, part);
  else
    grad_part<T, N, 1>(p, part);
  wait_cluster(plan.cluster);  // a block's memory lives as long as the block
}

}  // namespace mpk::cuda
