// combine: Y_j = relu(scale_j sum_i g_ij (U_ij + b_ij) + shift_j) (Eq. 4), in this order, so that
// infinite values and those that cancel come out as they are defined.
//
// Forward reads each U_i once and writes each Y_j once.
#include "cpu/combine.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

// What becomes of columns [begin, end) of row r of output j once its paths are summed.
template <class T, bool CHANNELS_LAST, class A = Accumulate<T>>
struct Finish {
  const OfChannels<A, CHANNELS_LAST> scale, shift;
  const Vec<A> edge;
  T* const y;

  Finish(const Coefficients<A>& of, int64_t j, int64_t r, int64_t begin, T* y)
      : scale(of.scale(j), r, begin), shift(of.shift(j), r, begin), edge(of.edge), y(y) {}
  template <class Lanes>
  inline __attribute__((always_inline)) void operator()(Lanes lanes, int64_t at, Vec<A> sum) const {
    const Vec<A> value = sum * scale.at(lanes, at) + shift.at(lanes, at);
    fetch_to_write(y + at);
    lanes.store(y + at, value <= edge ? Vec<A>{} : value);
  }
};

// Rows [first, last) of output j. In channels_last they are short: what is the same in all of them
// is looked up once.
template <class T, int M, bool CHANNELS_LAST, class A = Accumulate<T>>
inline void combine_rows(const Coefficients<A>& of, const Paths& us, int64_t j, int64_t first,
                         int64_t last, int64_t cols, Target<T, 1>& target) {
  const Geometry& geometry = of.p.geometry;
  const A* gates = of.gates + j * us.count;
  const auto columns_of = [&](int64_t r, int64_t begin, int64_t end, auto body) {
    const Finish<T, CHANNELS_LAST> finish(of, j, r, begin, target.at(0, r, begin));
    for_lanes<A>(end - begin, [&](auto lanes, int64_t at) { finish(lanes, at, body(lanes, at)); });
    target.finish(r, begin, end - begin, r + 1 == last);
  };
  if constexpr (M > 0) {
    const Weights<A, M> g(gates);
    const T* u[M];
    int64_t stride[M];
    for (int i = 0; i < M; i++) {
      u[i] = prediction_row<const T>(geometry, us, i, j, first);
      stride[i] = us.maps[i].row_stride;
    }
    for (int64_t r = first; r < last; r++) {
      for_blocks(cols, target.block(), [&](int64_t begin, int64_t end) {
        const Biases<A, CHANNELS_LAST, M> biases(of, j, r, begin);
        columns_of(r, begin, end, [&](auto lanes, int64_t at) {
          const auto value = [&](int i) {
            return lanes.load(u[i] + begin + at) + biases.of[i].at(lanes, at);
          };
          Vec<A> sum = value(0) * g.at[0];
          for (int i = 1; i < M; i++) sum += value(i) * g.at[i];
          return sum;
        });
      });
      for (int i = 0; i < M; i++) u[i] += stride[i];
    }
  } else {
    for (int64_t r = first; r < last; r++)
      for_blocks(cols, target.block(), [&](int64_t begin, int64_t end) {
        columns_of(r, begin, end, [&](auto lanes, int64_t at) {
          Vec<A> sum = {};
          for (int64_t i = 0; i < us.count; i++) {
            const T* u = prediction_row<const T>(geometry, us, i, j, r) + begin;
            const OfChannels<A, CHANNELS_LAST> bias(of.bias(i, j), r, begin);
            sum += (lanes.load(u + at) + bias.at(lanes, at)) * gates[i];
          }
          return sum;
        });
      });
  }
}

template <class T, int M, bool CHANNELS_LAST, class A = Accumulate<T>>
void combine_part(const Combine& c, const Coefficients<A>& of, int64_t b, Block rows,
                  bool streamed) {
  const Paths us{.maps = of.p.us, .count = of.p.inputs, .sample = b};
  // In the order in which U_i lies in memory: channels_last, where the outputs share its rows, a
  // few rows at a time.
  constexpr int64_t staged = Target<T, 1>::staged_columns;
  const int64_t few = rows.cols < staged ? staged / (rows.cols > 0 ? rows.cols : 1) : 1;
  const int64_t together = CHANNELS_LAST ? few : rows.last - rows.first;
  for (int64_t first = rows.first; first < rows.last; first += together) {
    const int64_t last = rows.last - first < together ? rows.last : first + together;
    for (int64_t j = 0; j < of.p.outputs; j++) {
      const Paths y{.maps = c.ys + j, .count = 1, .sample = b};
      Target<T, 1> target(y, rows.cols, streamed);
      combine_rows<T, M, CHANNELS_LAST>(of, us, j, first, last, rows.cols, target);
    }
  }
}

}  // namespace

void combine(const Combine& c, int64_t begin, int64_t end, void* scratch) {
  const Predictions& p = c.predictions;
  const bool streamed = streams(p.geometry, c.ys, p.outputs);
  visit_predictions(p, [&](auto zero, auto m, auto channels_last) {
    using T = decltype(zero);
    Coefficients<Accumulate<T>> of(p, scratch);
    for_parts(
        p.geometry, begin, end, [&](int64_t b) { of.read(b); },
        [&](int64_t b, int64_t part) {
          const Block rows = combine_part(p.geometry, part);
          combine_part<T, m, channels_last>(c, of, b, rows, streamed);
        });
  });
  if (streamed) finish_streams();
}

}  // namespace mpk::cpu::MPK_NAMESPACE
