// Tiny grids of the shipped kernels, for a sanitizer. `races FILE LINE` skips the barrier there,
// `races FILE LINE relaxed` makes it order no memory; `races BYTES` takes BYTES away from every
// block's shared memory.
#include <memory>
#include <vector>

#include "kernels.cpp"

namespace {

struct Floats {
  explicit Floats(int64_t size) : values(new float[size]) {
    for (int64_t q = 0; q < size; q++) values[q] = float((q * 37 + 11) % 64) / 64.f - 0.5f;
  }
  operator float*() const { return values.get(); }
  std::unique_ptr<float[]> values;
};

// The maps on one side of a router, each its own allocation, so no access past an end is missed.
struct Maps {
  Maps(const Geometry& geometry, int64_t count) {
    const int64_t size = geometry.rows() * geometry.cols();
    for (int64_t q = 0; q < count; q++) {
      values.emplace_back(geometry.batch * size);
      maps.push_back({.data = values.back(), .batch_stride = size, .row_stride = geometry.cols()});
    }
  }
  std::vector<Floats> values;
  std::vector<Map> maps;
};

bool report(const char* error) {
  if (error) std::fprintf(stderr, "%s\n", error);
  return error == nullptr;
}

// Shared memory starts as NaN, so an output that depends on values never computed is NaN.
bool finite(const Maps& maps, int64_t size) {
  for (const Floats& map : maps.values)
    for (int64_t q = 0; q < size; q++)
      if (!std::isfinite(map.values[q])) return report("an output is not a number");
  return true;
}

bool run(const Geometry& geometry, int64_t cluster, int64_t threads, unsigned seed) {
  constexpr int64_t m = 2, n = 2, hidden = 5;
  const int64_t batch = geometry.batch, channels = geometry.channels;
  Maps xs(geometry, m), ys(geometry, n), grad_ys(geometry, n), grad_xs(geometry, m);
  Floats w1(m * hidden * channels), b1(m * hidden), w2(m * n * hidden), b2(m * n);
  Floats gates(batch * m * n), pooled(batch * m * channels);
  Floats grad_logits(batch * m * n), grad_hidden(batch * m * hidden), units(batch * m * hidden);
  Floats grad_w1(m * hidden * channels), grad_b1(m * hidden), grad_w2(m * n * hidden),
      grad_b2(m * n);
  const GateParameters gate{.inputs = m,
                            .outputs = n,
                            .hidden = hidden,
                            .w1 = w1,
                            .w1_by_channel = nullptr,
                            .b1 = b1,
                            .w2 = w2,
                            .b2 = b2};
  const CrossConnect problem{.geometry = geometry,
                             .gate = gate,
                             .xs = xs.maps.data(),
                             .ys = ys.maps.data(),
                             .gates = gates,
                             .pooled = pooled};
  const int64_t output_of[] = {0, 1};
  const CrossConnectBackward outer{.geometry = geometry,
                                   .gate = gate,
                                   .xs = xs.maps.data(),
                                   .grad_ys = grad_ys.maps.data(),
                                   .output_of = output_of,
                                   .present = n,
                                   .grad_xs = grad_xs.maps.data(),
                                   .grad_gates = nullptr,
                                   .gates = gates,
                                   .pooled = pooled,
                                   .grad_pooled = nullptr,
                                   .grad_logits = grad_logits,
                                   .grad_hidden = grad_hidden,
                                   .hidden = units,
                                   .parameters_wanted = true};
  const GateWeightGradients sums{.dtype = Dtype::f32,
                                 .batch = batch,
                                 .channels = channels,
                                 .inputs = m,
                                 .outputs = n,
                                 .hidden_units = hidden,
                                 .pooled = pooled,
                                 .hidden = units,
                                 .grad_logits = grad_logits,
                                 .grad_hidden = grad_hidden,
                                 .grad_w1 = grad_w1,
                                 .grad_b1 = grad_b1,
                                 .grad_w2 = grad_w2,
                                 .grad_b2 = grad_b2};
  const int64_t size = batch * channels * geometry.positions;
  return report(forward(&problem, cluster, threads, seed)) &&
         report(backward(&outer, cluster, threads, seed)) &&
         report(weights(&sums, threads, seed)) && finite(ys, size) && finite(grad_xs, size);
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 2) shim::taken_bytes = size_t(std::atoi(arguments[1]));
  if (count == 3) skip(arguments[1], std::atoi(arguments[2]));
  if (count == 4) relax(arguments[1], std::atoi(arguments[2]));
  bool right = true;
  for (const bool channels_last : {false, true})
    for (const int64_t positions : {16, 7})
      for (const int64_t cluster : {1, 3})
        right &= run({.dtype = Dtype::f32,
                      .channels_last = channels_last,
                      .batch = 2,
                      .channels = 12,
                      .positions = positions},
                     cluster, 64, 1);
  return right ? 0 : 1;
}
