// Lanes: one vector type over the compiler's own vectors, loads and stores that convert, sums of
// lanes and e^x.
//
// Compiled once per instruction set inside a namespace named after it, so that the linker cannot
// merge a wide body into a narrow one. The tail of a loop is the same code on the first lanes.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace mpk::cpu::MPK_NAMESPACE {

// AVX-512 adds masks and registers. On AMD's Zen 4 its vectors of 64 bytes move maps slower than
// these, and no loop here is bound by arithmetic alone.
#if defined(__AVX__)
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

template <class E, int lanes>
struct VecOf {
  typedef E type __attribute__((vector_size(sizeof(E) * lanes)));
};

// The accumulate dtype of a storage dtype.
template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class A>
using Vec = typename VecOf<A, vector_bytes / int(sizeof(A))>::type;

template <class V>
using Element = std::remove_cvref_t<decltype(std::declval<V&>()[0])>;

template <class V>
inline constexpr int lanes_of = sizeof(V) / sizeof(Element<V>);

template <class V>
using Bits32 = typename VecOf<uint32_t, lanes_of<V>>::type;
template <class V>
using Bits16 = typename VecOf<uint16_t, lanes_of<V>>::type;

template <class To, class From>
inline To as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

template <class To, class From>
inline To convert(From from) {
  return __builtin_convertvector(from, To);
}

template <class V>
inline V from_f16(Bits16<V> half) {
#if defined(__F16C__)
  if constexpr (sizeof(V) == 32) return as<V>(_mm256_cvtph_ps(as<__m128i>(half)));
#endif
  using U = Bits32<V>;
  const U wide = convert<U>(half), magnitude = wide & 0x7fffu;
  // Shifted into place the exponent is 112 too small; a product mends it, subnormals included.
  const V finite = as<V>(U(magnitude << 13)) * 0x1p112f;
  const U special = magnitude << 13 | 0x7f800000u;
  const U bits = magnitude >= 0x7c00u ? special : as<U>(finite);
  return as<V>(U(bits | (wide & 0x8000u) << 16));
}

template <class V>
inline Bits16<V> to_f16(V value) {
#if defined(__F16C__)
  if constexpr (sizeof(V) == 32) return as<Bits16<V>>(_mm256_cvtps_ph(as<__m256>(value), 0));
#endif
  using U = Bits32<V>;
  const U bits = as<U>(value), magnitude = bits & 0x7fffffffu;
  const U normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  // Adding 0.5 lets the addition itself round at the last subnormal bit of half precision.
  const U subnormal = as<U>(V(as<V>(magnitude) + 0.5f)) - 0x3f000000u;
  const U special = magnitude > 0x7f800000u ? U{} + 0x7e00u : U{} + 0x7c00u;
  U half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x47800000u ? special : half;
  return convert<Bits16<V>>(U(half | (bits >> 16 & 0x8000u)));
}

// The upper 16 bits of every lane.
template <class V>
inline Bits16<V> upper_halves(Bits32<V> bits) {
  constexpr int lanes = lanes_of<V>, upper = std::endian::native == std::endian::little;
  const auto halves = as<typename VecOf<uint16_t, 2 * lanes>::type>(bits);
  return [&]<int... I>(std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(halves, halves, (2 * I + upper)...);
  }(std::make_integer_sequence<int, lanes>());
}

template <class V>
inline V from_bf16(Bits16<V> half) {
#if defined(__AVX2__)  // the compiler would widen each half of the vector by itself
  if constexpr (sizeof(V) == 32)
    return as<V>(_mm256_slli_epi32(_mm256_cvtepu16_epi32(as<__m128i>(half)), 16));
#endif
  return as<V>(Bits32<V>(convert<Bits32<V>>(half) << 16));
}

template <class V>
inline Bits16<V> to_bf16(V value) {
  using U = Bits32<V>;
  const U bits = as<U>(value);
  const U rounded = bits + 0x7fffu + (bits >> 16 & 1u), nan = U{} + 0x7fc00000u;
  return upper_halves<V>(value != value ? nan : rounded);
}

template <class V, class T>
inline V load(const T* from) {
  if constexpr (std::is_same_v<T, Element<V>>) {
    V value;
    __builtin_memcpy(&value, from, sizeof(V));
    return value;
  } else {
    Bits16<V> half;
    __builtin_memcpy(&half, from, sizeof(half));
    if constexpr (std::is_same_v<T, bf16>)
      return from_bf16<V>(half);
    else
      return from_f16<V>(half);
  }
}

template <class T, class V>
inline void store(T* to, V value) {
  if constexpr (std::is_same_v<T, Element<V>>) {
    __builtin_memcpy(to, &value, sizeof(V));
  } else {
    Bits16<V> half;
    if constexpr (std::is_same_v<T, bf16>)
      half = to_bf16(value);
    else
      half = to_f16(value);
    __builtin_memcpy(to, &half, sizeof(half));
  }
}

// Sums of neighbouring lanes: those of `a`, then those of `b`.
template <class V>
inline V pair_sums(V a, V b) {
  return [&]<int... I>(std::integer_sequence<int, I...>) {
    return __builtin_shufflevector(a, b, (2 * I)...) +
           __builtin_shufflevector(a, b, (2 * I + 1)...);
  }(std::make_integer_sequence<int, lanes_of<V>>());
}

// Lane r of the result is the sum of the lanes of rows[r].
template <class V>
inline V sum_each(V (&rows)[lanes_of<V>]) {
  for (int width = lanes_of<V>; width > 1; width /= 2)
    for (int r = 0; r < width / 2; r++) rows[r] = pair_sums(rows[2 * r], rows[2 * r + 1]);
  return rows[0];
}

template <class V>
inline Element<V> sum_lanes(V value) {
  for (int width = lanes_of<V>; width > 1; width /= 2) value = pair_sums(value, value);
  return value[0];
}

// e^x of every lane. With x = q ln 2 + r and |r| <= ln 2 / 2 it is 2^q e^r, and e^r is a polynomial
// (Cephes' for float, off by less than an ulp). 2^q is a product of two powers so that the result
// may be subnormal.
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

// The first `count` lanes from memory, the rest 0; nothing beyond is touched.
template <class V, class T>
inline V load_first(const T* from, int count) {
#if defined(__AVX512VL__)
  const __mmask8 mask = __mmask8((1u << count) - 1);
  if constexpr (std::is_same_v<T, float>) return as<V>(_mm256_maskz_loadu_ps(mask, from));
  if constexpr (std::is_same_v<T, double>) return as<V>(_mm256_maskz_loadu_pd(mask, from));
#endif
  T padded[lanes_of<V>] = {};
  std::memcpy(padded, from, count * sizeof(T));
  return load<V>(padded);
}

template <class T, class V>
inline void store_first(T* to, V value, int count) {
#if defined(__AVX512VL__)
  const __mmask8 mask = __mmask8((1u << count) - 1);
  if constexpr (std::is_same_v<T, float>) return _mm256_mask_storeu_ps(to, mask, as<__m256>(value));
  if constexpr (std::is_same_v<T, double>)
    return _mm256_mask_storeu_pd(to, mask, as<__m256d>(value));
#endif
  T padded[lanes_of<V>];
  store(padded, value);
  std::memcpy(to, padded, count * sizeof(T));
}

// What a loop over lanes gives its body: a whole vector, or the first lanes of one.
template <class A>
struct Whole {
  using V = Vec<A>;
  template <class T>
  V load(const T* from) const {
    return MPK_NAMESPACE::load<V>(from);
  }
  template <class T>
  void store(T* to, V value) const {
    MPK_NAMESPACE::store(to, value);
  }
};
template <class A>
struct First {
  using V = Vec<A>;
  int count;
  template <class T>
  V load(const T* from) const {
    return load_first<V>(from, count);
  }
  template <class T>
  void store(T* to, V value) const {
    store_first(to, value, count);
  }
};

// Calls body(lanes, at) on the vectors of [0, size); lanes beyond the end load 0 and store nothing.
template <class A, class Body>
inline __attribute__((always_inline)) void for_lanes(int64_t size, Body body) {
  constexpr int step = lanes_of<Vec<A>>;
  int64_t at = 0;
  for (; at + step <= size; at += step) body(Whole<A>{}, at);
  if (at < size) body(First<A>{.count = int(size - at)}, at);
}

// Writes `bytes`, a multiple of a line of 64, around the cache; both addresses are aligned to it.
inline void stream(void* to, const void* from, int64_t bytes) {
#if defined(__AVX__)
  for (int64_t at = 0; at < bytes; at += 32)
    _mm256_stream_si256(
        reinterpret_cast<__m256i*>(static_cast<char*>(to) + at),
        _mm256_load_si256(reinterpret_cast<const __m256i*>(static_cast<const char*>(from) + at)));
#else
  std::memcpy(to, from, bytes);
#endif
}

// Streamed lines are visible to other threads only after this.
inline void finish_streams() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

}  // namespace mpk::cpu::MPK_NAMESPACE
