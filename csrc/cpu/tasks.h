// How one call is cut into tasks for threads: by samples, or a large sample by its parts.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "cpu/kernels.h"
#include "tensors.h"

namespace mpk::cpu {

using torch::stable::parallel_for;

// Elements of all maps that make a task worth a thread.
constexpr int64_t task_elements = 32768;

// Products of weights that make a task worth a thread.
constexpr int64_t task_products = 262144;

inline int64_t sample_elements(const Geometry& geometry, int64_t maps) {
  return maps * geometry.channels * geometry.positions;
}

// Samples a task must hold to be worth a thread.
inline int64_t grain(const Geometry& geometry, int64_t maps) {
  const int64_t one = sample_elements(geometry, maps);
  return one >= task_elements ? 1 : task_elements / (one > 0 ? one : 1);
}

// Whether threads share each sample, because there are too few samples for all of them.
inline bool shares_samples(const Geometry& geometry, int64_t maps) {
  const int64_t threads = torch::stable::get_num_threads();
  return threads > 1 && geometry.batch < 2 * threads &&
         sample_elements(geometry, maps) >= 4 * task_elements;
}

inline int64_t at_least_one(int64_t size) { return size > 0 ? size : 1; }

inline void run(const CrossConnect& p, int64_t maps) {
  const Geometry& geometry = p.geometry;
  if (p.ys && shares_samples(geometry, maps)) {
    Buffer scratch(cross_connect_scratch(p), Dtype::f64);
    // Threads take whole lines of 64 bytes of channels, in either format.
    const int64_t lines = (geometry.channels + 15) / 16;
    for (int64_t b = 0; b < geometry.batch; b++) {
      parallel_for(0, lines, 1, [&](int64_t begin, int64_t end) {
        const int64_t last = end * 16 < geometry.channels ? end * 16 : geometry.channels;
        kernels().cross_connect_pool(p, b, begin * 16, last);
      });
      kernels().cross_connect_gates(p, b, scratch.data_ptr());
      parallel_for(0, parts(geometry), 1, [&](int64_t begin, int64_t end) {
        kernels().cross_connect_mix(p, b, begin, end);
      });
    }
    return;
  }
  parallel_for(0, geometry.batch, grain(geometry, maps), [&](int64_t begin, int64_t end) {
    Buffer scratch(cross_connect_scratch(p), Dtype::f64);
    kernels().cross_connect(p, begin, end, scratch.data_ptr());
  });
}

inline void run(const CrossConnectBackward& p, int64_t maps) {
  const Geometry& geometry = p.geometry;
  if (shares_samples(geometry, maps)) {
    Buffer scratch(cross_connect_backward_scratch(p), Dtype::f64);
    Buffer partial(at_least_one(parts(geometry) * p.gate.inputs * p.present), Dtype::f64);
    for (int64_t b = 0; b < geometry.batch; b++) {
      parallel_for(0, parts(geometry), 1, [&](int64_t begin, int64_t end) {
        kernels().cross_connect_dots(p, b, begin, end, partial.data_ptr());
      });
      kernels().cross_connect_differentiate(p, b, partial.data_ptr(), scratch.data_ptr());
      parallel_for(0, parts(geometry), 1, [&](int64_t begin, int64_t end) {
        kernels().cross_connect_grads(p, b, begin, end, scratch.data_ptr());
      });
    }
    return;
  }
  parallel_for(0, geometry.batch, grain(geometry, maps), [&](int64_t begin, int64_t end) {
    Buffer scratch(cross_connect_backward_scratch(p), Dtype::f64);
    kernels().cross_connect_backward(p, begin, end, scratch.data_ptr());
  });
}

inline void run(const GateWeightGradients& p) {
  const int64_t work = at_least_one(8 * p.batch * p.channels);
  parallel_for(0, weight_tasks(p.inputs, p.hidden_units), 1 + task_products / work,
               [&](int64_t begin, int64_t end) { kernels().gate_weight_gradients(p, begin, end); });
}

// Calls body(begin, end) on parts of samples that hold `maps` maps of the geometry.
template <class Body>
void for_each_part(const Geometry& geometry, int64_t maps, Body body) {
  const int64_t parts = combine_parts(geometry);
  Geometry part = geometry;
  part.positions = geometry.positions / at_least_one(parts);
  parallel_for(0, geometry.batch * parts, grain(part, maps), body);
}

inline void run(const Combine& c) {
  const Predictions& p = c.predictions;
  for_each_part(p.geometry, (p.inputs + 1) * p.outputs, [&](int64_t begin, int64_t end) {
    Buffer scratch(combine_scratch(p), Dtype::f64);
    kernels().combine(c, begin, end, scratch.data_ptr());
  });
}

inline void run(const CombineBackward& c) {
  const Predictions& p = c.predictions;
  for_each_part(p.geometry, (2 * p.inputs + 1) * p.outputs, [&](int64_t begin, int64_t end) {
    Buffer scratch(combine_scratch(p), Dtype::f64);
    kernels().combine_backward(c, begin, end, scratch.data_ptr());
  });
}

inline void run(const CombineParameterGradients& c) {
  const Predictions& p = c.predictions;
  const int64_t terms = p.geometry.batch * combine_sum_parts(p.geometry) * (p.inputs + 2);
  parallel_for(
      0, combine_tasks(p), 1 + 4096 / at_least_one(terms),
      [&](int64_t begin, int64_t end) { kernels().combine_parameter_gradients(c, begin, end); });
}

inline void run(const Predict& p) {
  const int64_t work = at_least_one(p.inputs * p.rows * p.geometry.channels);
  parallel_for(0, p.geometry.batch, 1 + task_products / work,
               [&](int64_t begin, int64_t end) { kernels().predict(p, begin, end); });
}

// Writes dX, then dW if it is wanted.
inline void run(const PredictBackward& p) {
  int64_t work = at_least_one(p.inputs * p.rows * p.geometry.channels);
  parallel_for(0, p.geometry.batch, 1 + task_products / work,
               [&](int64_t begin, int64_t end) { kernels().predict_grads(p, begin, end); });
  if (!p.grad_weight) return;
  work = at_least_one(8 * p.geometry.batch * p.geometry.channels);
  parallel_for(
      0, predict_tasks(p.inputs, p.rows), 1 + task_products / work,
      [&](int64_t begin, int64_t end) { kernels().predict_weight_gradients(p, begin, end); });
}

}  // namespace mpk::cpu
