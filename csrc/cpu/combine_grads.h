// Gradients of combine, one vector of columns at a time: where they go, and what is summed.
#pragma once

#include "cpu/combine.h"

namespace mpk::cpu::MPK_NAMESPACE {

// One part of one sample.
template <class A>
struct Part {
  const CombineBackward& c;
  const Coefficients<A>& of;
  int64_t b;
  Block rows;
  A* sums;      // [n, C'], or null
  A* products;  // [n, C'], or null
  bool streamed;

  Part(const CombineBackward& c, const Coefficients<A>& of, int64_t b, int64_t part, bool streamed)
      : c(c),
        of(of),
        b(b),
        rows(combine_part(of.p.geometry, part)),
        sums(place(c.sums, part)),
        products(place(c.products, part)),
        streamed(streamed) {}

  A* place(void* base, int64_t part) const {
    const Geometry& geometry = of.p.geometry;
    const int64_t parts = combine_sum_parts(geometry);
    const int64_t at = b * parts + (geometry.channels_last ? part : 0);
    return base ? static_cast<A*>(base) + at * of.p.outputs * geometry.channels : nullptr;
  }
  Paths us() const { return {of.p.us, of.p.inputs, b}; }
  Paths grad_us() const { return {c.grad_us, of.p.inputs, b}; }
  template <class T>
  const T* grad_y(int64_t j, int64_t r) const {
    return Paths{c.grad_ys + j, 1, b}.row<const T>(0, r);
  }
  bool wanted(int64_t i) const { return c.grad_us[i].data != nullptr; }
};

// Where the gradients of ROWS rows go: to their maps, or to a staging buffer from where they are
// streamed, or forgotten where they are not wanted.
template <class T, int M, int ROWS>
struct GradTarget {
  static constexpr int64_t columns = 2048 / int64_t(sizeof(T)) / ROWS;
  alignas(64) T staged[M][ROWS][columns];
  Paths maps;
  bool direct[M];
  bool streamed;

  GradTarget(const Paths& grad_us, bool streamed) : maps(grad_us), streamed(streamed) {
    for (int i = 0; i < M; i++) direct[i] = !streamed && maps.maps[i].data;
  }
  int64_t block() const {
    bool all = true;
    for (int i = 0; i < M; i++) all &= direct[i];
    return all ? INT64_MAX : columns;
  }
  void finish(const Geometry& geometry, int64_t j, int64_t r, int64_t begin, int64_t count) {
    for (int i = 0; streamed && i < M; i++)
      for (int q = 0; maps.maps[i].data && q < ROWS; q++)
        stream(prediction_row<T>(geometry, maps, i, j, r + q) + begin, staged[i][q],
               count * int64_t(sizeof(T)));
  }
};

// Pointers to columns of ROWS rows of output j, from row r on.
template <class T, int M, int ROWS>
struct Pointers {
  const T* u[ROWS][M];
  const T* grad_y[ROWS];
  T* grad_u[ROWS][M];

  template <class A>
  Pointers(const Part<A>& part, GradTarget<T, M, ROWS>& target, int64_t j, int64_t r, int64_t col) {
    const Geometry& geometry = part.of.p.geometry;
    const Paths us = part.us();
    for (int q = 0; q < ROWS; q++) {
      grad_y[q] = part.template grad_y<T>(j, r + q) + col;
      for (int i = 0; i < M; i++) {
        u[q][i] = prediction_row<const T>(geometry, us, i, j, r + q) + col;
        grad_u[q][i] = target.direct[i]
                           ? prediction_row<T>(geometry, target.maps, i, j, r + q) + col
                           : target.staged[i][q];
      }
    }
  }
};

// D and D U_i, summed lane by lane over the positions of one channel a lane, or of one channel.
template <class A, int M>
struct Sums {
  Vec<A> d = {};
  Vec<A> products[M] = {};

  // One vector of columns; `g` are g_ij, `scaled` scale_j g_ij.
  template <class Lanes, class T>
  inline __attribute__((always_inline)) void add(Lanes lanes, const T* const (&u)[M],
                                                 const T* grad_y, T* const (&grad_u)[M], int64_t at,
                                                 const Weights<A, M>& g, const Vec<A> (&scaled)[M],
                                                 Vec<A> scale, Vec<A> offset, Vec<A> edge) {
    Vec<A> value[M], sum;
    for (int i = 0; i < M; i++) value[i] = lanes.load(u[i] + at);
    sum = value[0] * g.at[0];
    for (int i = 1; i < M; i++) sum += value[i] * g.at[i];
    const Vec<A> grad = sum * scale + offset <= edge ? Vec<A>{} : lanes.load(grad_y + at);
    d += grad;
    for (int i = 0; i < M; i++) {
      products[i] += grad * value[i];
      fetch_to_write(grad_u[i] + at);
      lanes.store(grad_u[i] + at, Vec<A>(grad * scaled[i]));
    }
  }

  // sum of D T
  Vec<A> of_product(const Weights<A, M>& g, Vec<A> biases) const {
    Vec<A> sum = d * biases;
    for (int i = 0; i < M; i++) sum += products[i] * g.at[i];
    return sum;
  }
};

// The dots of output j, held in registers meanwhile.
template <class A, int M>
struct OutputDots {
  Vec<A>* to;
  Vec<A> at[M];
  OutputDots(const Coefficients<A>& of, int64_t j) : to(of.dots + j * M) {
    for (int i = 0; i < M; i++) at[i] = to[i];
  }
  ~OutputDots() {
    for (int i = 0; i < M; i++) to[i] = at[i];
  }
};

}  // namespace mpk::cpu::MPK_NAMESPACE
