// cross_connect: samples are pooled, gated and mixed, in groups that share a cache.
//
// Forward moves (m + n)|X| from and to memory; the second read of a group hits the cache.
#include "cpu/gate.h"
#include "cpu/mix.h"
#include "cpu/processor.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

template <class A>
A* row_of(void* data, int64_t b, int64_t size) {
  return static_cast<A*>(data) + b * size;
}

template <class A>
A* pooled_of(const CrossConnect& p, int64_t b) {
  return row_of<A>(p.pooled, b, p.gate.inputs * p.geometry.channels);
}

template <class T>
void pool_sample(const CrossConnect& p, int64_t b) {
  pool<T>(p.geometry, {.maps = p.xs, .count = p.gate.inputs, .sample = b}, 0, p.geometry.channels,
          pooled_of<Accumulate<T>>(p, b));
}

// Gates of samples [begin, end); h holds K values per sample.
template <class A>
__attribute__((noinline)) void gates_of(const CrossConnect& p, int64_t begin, int64_t end, A* h) {
  const int64_t m = p.gate.inputs, n = p.gate.outputs, channels = p.geometry.channels;
  A* g = row_of<A>(p.gates, begin, m * n);
  const Samples<A> hidden{.data = h, .stride = p.gate.hidden};
  for (int64_t i = 0; i < m; i++) {
    const PathGate<A> gate(p.gate, channels, i);
    const A* pooled = pooled_of<A>(p, begin) + i * channels;
    gate_hidden<A>(gate, {.data = pooled, .stride = m * channels}, hidden, end - begin);
    gate_logits<A>(gate, {.data = h, .stride = p.gate.hidden}, {.data = g + i * n, .stride = m * n},
                   end - begin);
  }
  gates_of_logits(p.gate, g, end - begin);
}

// `each` is called on every sample of a group whose gates are there.
template <class T, class Each, class A = Accumulate<T>>
void for_groups(const CrossConnect& p, int64_t begin, int64_t end, A* h, Each each) {
  const int64_t group = group_size(p.geometry, p.gate.inputs + p.gate.outputs);
  for (int64_t first = begin; first < end; first += group) {
    const int64_t last = first + group < end ? first + group : end;
    for (int64_t b = first; b < last; b++) pool_sample<T>(p, b);
    gates_of(p, first, last, h);
    for (int64_t b = first; b < last; b++) each(b);
  }
}

}  // namespace

void cross_connect(const CrossConnect& p, int64_t begin, int64_t end, void* scratch) {
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* h = static_cast<Accumulate<T>*>(scratch);
    if (!p.ys) return for_groups<T>(p, begin, end, h, [](int64_t) {});
    const int64_t m = p.gate.inputs, n = p.gate.outputs;
    const bool streamed = m <= 4 && n <= 4 && streams(p.geometry, p.ys, n);
    visit_paths(m, n, [&](auto M, auto N) {
      for_groups<T>(p, begin, end, h, [&](int64_t b) {
        const auto* g = row_of<Accumulate<T>>(p.gates, b, m * n);
        for_rows_again(p.geometry, m, [&](Block rows) {
          mix_rows<T, M, N>({.maps = p.xs, .count = m, .sample = b},
                            {.maps = p.ys, .count = n, .sample = b}, rows, g, streamed);
        });
      });
    });
    if (streamed) finish_streams();
  });
}

void cross_connect_pool(const CrossConnect& p, int64_t b, int64_t begin, int64_t end) {
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    using T = decltype(zero);
    pool<T>(p.geometry, {.maps = p.xs, .count = p.gate.inputs, .sample = b}, begin, end,
            pooled_of<Accumulate<T>>(p, b));
  });
}

void cross_connect_gates(const CrossConnect& p, int64_t b, void* scratch) {
  if (p.geometry.dtype == Dtype::f64)
    gates_of(p, b, b + 1, static_cast<double*>(scratch));
  else
    gates_of(p, b, b + 1, static_cast<float*>(scratch));
}

void cross_connect_mix(const CrossConnect& p, int64_t b, int64_t begin, int64_t end) {
  const int64_t m = p.gate.inputs, n = p.gate.outputs;
  const Block rows = parts_of(p.geometry, begin, end);
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto* g = row_of<Accumulate<T>>(p.gates, b, m * n);
    visit_paths(m, n, [&](auto M, auto N) {
      mix_rows<T, M, N>({.maps = p.xs, .count = m, .sample = b},
                        {.maps = p.ys, .count = n, .sample = b}, rows, g, false);
    });
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
