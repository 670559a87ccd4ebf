// From values known at run time to template arguments: dtype and numbers of paths.
//
// Compiled variants of every mixing loop: 4 dtypes x (16 pairs of path counts + one loop over any
// number). Other counts than 1 to 4 run the loop, which reads a map once per output from L1. Of
// combine's loops: 4 dtypes x 2 formats x (4 numbers of inputs + one loop over any number).
#pragma once

#include "cpu/vec.h"
#include "problem.h"

namespace mpk::cpu::MPK_NAMESPACE {

template <int count>
using Count = std::integral_constant<int, count>;

template <class Body>
inline void visit_dtype(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::f32:
      return body(float{});
    case Dtype::f64:
      return body(double{});
    case Dtype::bf16:
      return body(bf16{});
    case Dtype::f16:
      return body(f16{});
  }
}

// body(Count<count>), or 0 where it is not 1 to 4.
template <class Body>
inline void visit_count(int64_t count, Body body) {
  switch (count) {
    case 1:
      return body(Count<1>{});
    case 2:
      return body(Count<2>{});
    case 3:
      return body(Count<3>{});
    case 4:
      return body(Count<4>{});
    default:
      return body(Count<0>{});
  }
}

// body(Count<M>, Count<N>) with both 0 where either number is not 1 to 4.
template <class Body>
inline void visit_paths(int64_t inputs, int64_t outputs, Body body) {
  visit_count(inputs, [&](auto m) {
    visit_count(outputs, [&](auto n) {
      if constexpr (m == 0 || n == 0)
        body(Count<0>{}, Count<0>{});
      else
        body(m, n);
    });
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
