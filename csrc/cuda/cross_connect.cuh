// Y_j = sum_i g_ij X_i of samples that one block, or the blocks of one cluster, keep on chip.
//
// Each X_i element is loaded once and each Y_j stored once: (m + n)|X| + 4 B m (n + C) bytes, and
// w1 once per sample, from L2.
#pragma once

#include "cuda/gate.cuh"

namespace mpk::cuda {

struct CrossConnectArguments {
  Plan plan;
  GateArguments gate;
  Map xs[max_kept];
  Map ys[max_paths];
  float* gates;   // [B, m, n]
  float* pooled;  // [B, m, C]
};

inline CrossConnectArguments arguments_of(const CrossConnect& p, int64_t cluster, int64_t threads) {
  const GateParameters& gate = p.gate;
  CrossConnectArguments arguments{};
  arguments.plan = plan_for(p.geometry, gate.inputs, gate.outputs, gate.hidden, gate.inputs,
                            cluster, threads, false);
  see(arguments.plan, p.geometry, p.xs, gate.inputs);
  see(arguments.plan, p.geometry, p.ys, gate.outputs);
  arguments.gate = arguments_of(gate);
  for (int64_t i = 0; i < gate.inputs; i++) arguments.xs[i] = p.xs[i];
  for (int64_t j = 0; j < gate.outputs; j++) arguments.ys[j] = p.ys[j];
  arguments.gates = static_cast<float*>(p.gates);
  arguments.pooled = static_cast<float*>(p.pooled);
  return arguments;
}

// Loads the tiles and leaves Z of the block's channels, each tile summed while later ones arrive.
template <class T, int M, int i = 0>
MPK_DEVICE void pool_tiles(const Plan& plan, const Part& part) {
  float* values = shared_memory();
  wait_copies<M - 1 - i>();
  sync_block();
  if (plan.channels_last)
    sum_columns(plan, part, tile_of<T>(plan, i), values + plan.at.scratch,
                values + plan.at.sums + i * plan.channels);
  else
    pool_rows(plan, part, tile_of<T>(plan, i), values + plan.at.z + i * plan.channels_per_block);
  if constexpr (i + 1 < M) pool_tiles<T, M, i + 1>(plan, part);
}

// channels_last: blocks own rows of all channels, so each finishes the sums of some of them.
MPK_DEVICE void exchange_sums(const Plan& plan, const Part& part) {
  float* values = shared_memory();
  sync_cluster(plan.cluster);
  for (int at = thread(); at < plan.inputs * part.channels; at += threads()) {
    const int i = at / part.channels, c = at % part.channels;
    const float* sums = values + plan.at.sums + i * plan.channels + part.first_channel + c;
    values[plan.at.z + i * plan.channels_per_block + c] =
        sum_over_cluster(plan, sums) / float(plan.positions);
  }
}

// Z of the block's channels, and the sample's gates.
MPK_DEVICE void store_gates(const CrossConnectArguments& p, const Part& part) {
  const Plan& plan = p.plan;
  const float *z = shared_memory() + plan.at.z, *gates = shared_memory() + plan.at.gates;
  for (int at = thread(); at < plan.inputs * part.channels; at += threads()) {
    const int i = at / part.channels, c = at % part.channels;
    write_float(p.pooled + (part.sample * plan.inputs + i) * plan.channels + part.first_channel + c,
                z[i * plan.channels_per_block + c]);
  }
  const int pairs = plan.inputs * plan.outputs;
  for (int at = thread(); part.rank == 0 && at < pairs; at += threads())
    write_float(p.gates + part.sample * pairs + at, gates[at]);
}

template <class T, int M, int W>
MPK_DEVICE void mix_part(const CrossConnectArguments& p, const Part& part, const float* gates) {
  const Plan& plan = p.plan;
  const int size = part.rows * plan.cols;
  for (int at = thread() * W; at < size; at += threads() * W) {
    Pack<T, W> xs[M];
#pragma unroll
    for (int i = 0; i < M; i++) xs[i] = fetch<W>(tile_of<T>(plan, i) + at);
    for (int j = 0; j < plan.outputs; j++) {
      float sum[W] = {};
#pragma unroll
      for (int i = 0; i < M; i++) {
        const float g = gates[i * plan.outputs + j];
#pragma unroll
        for (int e = 0; e < W; e++) sum[e] += g * widen(xs[i].values[e]);
      }
      Pack<T, W> y;
      narrow(sum, y);
      write<W>(place<T>(p.ys[j], plan, part, at), y);
    }
  }
}

template <class T, int M>
MPK_DEVICE void cross_connect_part(const CrossConnectArguments& p) {
  const Plan& plan = p.plan;
  const Part part = part_of(plan);
  float* values = shared_memory();
  float *products = values + plan.at.exchanged, *gates = values + plan.at.gates;
#pragma unroll
  for (int i = 0; i < M; i++) load_tile(p.xs[i], plan, part, tile_of<T>(plan, i));
  load_parameters(plan, p.gate);
  pool_tiles<T, M>(plan, part);
  if (plan.channels_last) exchange_sums(plan, part);
  sync_block();
  multiply_channels(plan, part, p.gate.w1, values + plan.at.z, products);
  sync_cluster(plan.cluster);
  finish_hidden(plan, products, values + plan.at.hidden);
  leave_cluster(plan.cluster);
  sync_block();
  finish_gates(plan, p.gate.kind, values + plan.at.hidden, gates);
  sync_block();
  store_gates(p, part);  // after the last fence, which would wait for it
  if (plan.wide)
    mix_part<T, M, vector_size<T>>(p, part, gates);
  else
    mix_part<T, M, 1>(p, part, gates);
  wait_cluster(plan.cluster);  // a block's memory lives as long as the block
}

}  // namespace mpk::cuda
