// mix: Y_j = sum_i g_ij X_i with gates of any strides, one per sample or one per channel.
//
// Forward reads m|X| and writes n|X|. Backward reads dY once for dX, and dY and X once for dG.
#include "cpu/mix.h"

#include "cpu/processor.h"
#include "cpu/sample.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

// One weight per channel. `gates` is [inputs, outputs, C].
template <class T, class A = Accumulate<T>>
void mix_by_channel(const Geometry& geometry, const Paths& xs, const Paths& ys, const A* gates) {
  const int64_t channels = geometry.channels;
  for (int64_t r = 0; r < geometry.rows(); r++)
    for (int64_t j = 0; j < ys.count; j++) {
      T* y = ys.row<T>(j, r);
      for_lanes<A>(geometry.cols(), [&](auto lanes, int64_t at) {
        using V = Vec<A>;
        V sum = {};
        for (int64_t i = 0; i < xs.count; i++) {
          const A* g = gates + (i * ys.count + j) * channels;
          const V weight = geometry.channels_last ? lanes.load(g + at) : V(V{} + g[r]);
          sum += lanes.load(xs.row<const T>(i, r) + at) * weight;
        }
        lanes.store(y + at, sum);
      });
    }
}

// d_ijc = sum over positions of dY_j X_i; d is [inputs, outputs, C].
template <class T, class A = Accumulate<T>>
void dot_by_channel(const Geometry& geometry, const Paths& xs, const Paths& grad_ys, A* d) {
  const int64_t channels = geometry.channels, n = grad_ys.count;
  for (int64_t i = 0; i < xs.count; i++)
    for (int64_t j = 0; j < n; j++) {
      A* to = d + (i * n + j) * channels;
      const Paths x{.maps = xs.maps + i, .count = 1, .sample = xs.sample};
      const Paths dy{.maps = grad_ys.maps + j, .count = 1, .sample = grad_ys.sample};
      if (!geometry.channels_last) {
        for (int64_t c = 0; c < channels; c++)
          dot_rows<T, 1, 1>(x, dy, {.first = c, .last = c + 1, .cols = geometry.positions}, to + c);
        continue;
      }
      for_lanes<A>(channels, [&](auto lanes, int64_t c) {
        const auto sum_of = [&](int64_t block) {
          const int64_t first = block * longest_chain;
          const int64_t last = std::min(first + longest_chain, geometry.positions);
          Vec<A> sum = {};
          for (int64_t s = first; s < last; s++)
            sum += lanes.load(x.row<const T>(0, s) + c) * lanes.load(dy.row<const T>(0, s) + c);
          return sum;
        };
        lanes.store(to + c, pairwise_sum(blocks_of(geometry.positions, longest_chain), sum_of));
      });
    }
}

template <class T, int M, int N, class A = Accumulate<T>>
void mix_sample(const Geometry& geometry, const Gates& kind, const Paths& xs, const Paths& ys,
                const A* gates) {
  if (kind.by_channel) {
    mix_by_channel<T>(geometry, xs, ys, gates);
    return;
  }
  const Block rows = whole(geometry);
  const bool streamed = M > 0 && streams(geometry, ys.maps, ys.count);
  mix_rows<T, M, N>(xs, ys, rows, gates, streamed);
  if (streamed) finish_streams();
}

// dX_i = sum_j g_ij dY_j is a mix of the gradients with the gates transposed.
template <class T, int M, int N, class A = Accumulate<T>>
void input_gradients(const MixBackward& p, int64_t b, A* gates) {
  const int64_t channels = p.geometry.channels;
  const Paths grad_ys{.maps = p.grad_ys, .count = p.present, .sample = b};
  const Paths grad_xs{.maps = p.grad_xs, .count = p.inputs, .sample = b};
  bool all = true;
  for (int64_t i = 0; i < p.inputs; i++) all &= p.grad_xs[i].data != nullptr;
  if (all) {
    gather(p.gates, b, p.inputs, p.present, p.output_of, channels, true, gates);
    mix_sample<T, N, M>(p.geometry, p.gates, grad_ys, grad_xs, gates);
    return;
  }
  for (int64_t i = 0; i < p.inputs; i++) {
    if (!p.grad_xs[i].data) continue;
    Gates one = p.gates;
    one.data = static_cast<const A*>(one.data) + i * one.input_stride;
    gather(one, b, 1, p.present, p.output_of, channels, true, gates);
    mix_sample<T, 0, 0>(p.geometry, one, grad_ys, {.maps = p.grad_xs + i, .count = 1, .sample = b},
                        gates);
  }
}

// dG of sample b; that of an output without a gradient is 0. `d` holds [m, present] or more.
template <class T, int M, int N, class A = Accumulate<T>>
void gate_gradients(const MixBackward& p, int64_t b, A* d) {
  const Paths xs{.maps = p.xs, .count = p.inputs, .sample = b};
  const Paths grad_ys{.maps = p.grad_ys, .count = p.present, .sample = b};
  const int64_t weights = p.gates.by_channel ? p.geometry.channels : 1;
  A* to = static_cast<A*>(p.grad_gates) + b * p.inputs * p.outputs * weights;
  const bool all = p.present == p.outputs;
  if (p.gates.by_channel)
    dot_by_channel<T>(p.geometry, xs, grad_ys, all ? to : d);
  else
    dot_rows<T, M, N>(xs, grad_ys, whole(p.geometry), all ? to : d);
  if (all) return;
  std::memset(to, 0, p.inputs * p.outputs * weights * sizeof(A));
  for (int64_t i = 0; i < p.inputs; i++)
    for (int64_t o = 0; o < p.present; o++)
      std::memcpy(to + (i * p.outputs + p.output_of[o]) * weights,
                  d + (i * p.present + o) * weights, weights * sizeof(A));
}

}  // namespace

void mix(const Mix& p, int64_t begin, int64_t end, void* scratch) {
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* gates = static_cast<Accumulate<T>*>(scratch);
    visit_paths(p.inputs, p.outputs, [&](auto m, auto n) {
      for (int64_t b = begin; b < end; b++) {
        gather(p.gates, b, p.inputs, p.outputs, nullptr, p.geometry.channels, false, gates);
        mix_sample<T, m, n>(p.geometry, p.gates, {.maps = p.xs, .count = p.inputs, .sample = b},
                            {.maps = p.ys, .count = p.outputs, .sample = b}, gates);
      }
    });
  });
}

void mix_backward(const MixBackward& p, int64_t begin, int64_t end, void* scratch) {
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* gates = static_cast<Accumulate<T>*>(scratch);
    visit_paths(p.inputs, p.present, [&](auto m, auto n) {
      for (int64_t b = begin; b < end; b++) {
        if (p.grad_gates) gate_gradients<T, m, n>(p, b, gates);
        input_gradients<T, m, n>(p, b, gates);
      }
    });
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
