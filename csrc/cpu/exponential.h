// e^x of every lane.
#pragma once

#include "cpu/vec.h"

namespace mpk::cpu::MPK_NAMESPACE {

// x = q ln 2 + r with |r| <= ln 2 / 2: e^x = 2^q e^r, and e^r is a polynomial (Cephes' for float,
// off by less than an ulp). 2^q is a product of two powers so that the result may be subnormal.
inline Vec<float> exponential(Vec<float> x) {
  using V = Vec<float>;
  using Int = typename VecOf<int32_t, lanes_of<V>>::type;
  constexpr float most = 88.7228394f, least = -104.f, magic = 0x1.8p23f;
  V bounded = x > most ? V{} + most : x;
  bounded = x < least ? V{} + least : bounded;
  const V shifted = bounded * 1.44269504f + magic;  // rounds to the nearest integer
  const V q = shifted - magic;
  const V r = (bounded - q * 0.693359375f) + q * 2.12194440e-4f;
  V p = V{} + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  const Int power = as<Int>(shifted) - as<Int>(V{} + magic), half = power >> 1;
  const V first = as<V>(Int((half + 127) << 23)), second = as<V>(Int((power - half + 127) << 23));
  const V finite = p * first * second;
  return x != x ? x : finite;
}

inline Vec<double> exponential(Vec<double> x) {
  for (int lane = 0; lane < lanes_of<Vec<double>>; lane++) x[lane] = __builtin_exp(x[lane]);
  return x;
}

}  // namespace mpk::cpu::MPK_NAMESPACE
