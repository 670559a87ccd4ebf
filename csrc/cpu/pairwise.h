// Sums of many terms whose error does not grow as a serial sum's does.
//
// An accumulator takes the terms of one block. Sums of blocks are added in pairs, sums of pairs in
// pairs again, and so on: a term passes through about log2(blocks) further additions, in an order
// that follows from the number of blocks alone. Gradients of weights are such sums over the batch.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "cpu/vec.h"

namespace mpk::cpu::MPK_NAMESPACE {

// Terms that one accumulator takes.
constexpr int64_t longest_chain = 128;

// At least one, of nothing an empty one.
inline int64_t blocks_of(int64_t size, int64_t block) {
  return size > block ? (size + block - 1) / block : 1;
}

// Calls merge(level) for the sums that block number `at` of `blocks` is added to, each later one
// twice as long; returns the level where the result waits. It is the total after the last block.
template <class Merge>
inline int merge_blocks(int64_t at, int64_t blocks, Merge merge) {
  const bool last = at + 1 == blocks;
  int level = 0;
  for (uint64_t waiting = uint64_t(at); last ? waiting != 0 : waiting & 1; waiting >>= 1, level++)
    if (waiting & 1) merge(level);
  return level;
}
// Levels where sums of so many blocks wait.
inline int64_t levels_of(int64_t blocks) { return std::bit_width(uint64_t(blocks)); }

template <class Sum, class Block>
__attribute__((noinline)) Sum sum_in_pairs(int64_t blocks, Block block) {
  Sum waiting[48];  // of more blocks than memory holds
  for (int64_t at = 0;; at++) {
    Sum sum = block(at);
    const int level = merge_blocks(at, blocks, [&](int below) { sum = waiting[below] += sum; });
    if (at + 1 == blocks) return sum;
    waiting[level] = sum;
  }
}

// block(0) + ... + block(blocks - 1), of any type with +=. One block, the usual case, is summed in
// line: what `block` refers to should be captured as values, so that it can stay in registers.
template <class Block>
inline __attribute__((always_inline)) auto pairwise_sum(int64_t blocks, Block block) {
  using Sum = decltype(block(int64_t(0)));
  return blocks == 1 ? block(0) : sum_in_pairs<Sum>(blocks, block);
}

// Some vectors that are summed together.
template <class A, int COUNT>
struct Vectors {
  Vec<A> at[COUNT];
  Vectors& operator+=(const Vectors& other) {
    for (int q = 0; q < COUNT; q++) at[q] += other.at[q];
    return *this;
  }
};

// The same for blocks of `size` values in memory.
template <class A>
class PairwiseRows {
 public:
  // `waiting` holds levels_of(blocks) rows.
  PairwiseRows(int64_t blocks, int64_t size, A* waiting)
      : blocks_(blocks), size_(size), waiting_(waiting) {}
  // Adds the next block, which is overwritten: with the total, if it is the last one.
  void add(A* block) {
    const int level = merge_blocks(at_++, blocks_, [&](int below) {
      for (int64_t q = 0; q < size_; q++) block[q] = waiting_[below * size_ + q] + block[q];
    });
    if (at_ == blocks_) return;
    for (int64_t q = 0; q < size_; q++) waiting_[level * size_ + q] = block[q];
  }

 private:
  int64_t at_ = 0, blocks_, size_;
  A* waiting_;
};

// A matrix [batch, ...] of which rows of `size` values are read.
template <class A>
struct Column {
  const A* data;
  int64_t stride;
  const A* at(int64_t b) const { return data + b * stride; }
};

// The sum over the batch of one(b, sums), which adds what sample b gives to some vectors.
template <class Sums, class One>
inline Sums over_batch(int64_t batch, One one) {
  return pairwise_sum(
      blocks_of(batch, longest_chain), [=](int64_t block) __attribute__((always_inline)) {
        const int64_t first = block * longest_chain, last = std::min(first + longest_chain, batch);
        Sums sums{};
        for (int64_t b = first; b < last; b++) one(b, sums);
        return sums;
      });
}

// weight[r, c] = sum_b factor[b, r] value[b, c] for ROWS rows, each read of `value` shared by all.
template <int ROWS, class A>
inline void sum_products(int64_t batch, Column<A> factor, Column<A> value, int64_t size,
                         A* weight) {
  for_lanes<A>(size, [&](auto lanes, int64_t c) {
    using Sums = Vectors<A, ROWS>;
    const auto sums = over_batch<Sums>(batch, [=](int64_t b, Sums& sums) {
      const Vec<A> v = lanes.load(value.at(b) + c);
      for (int r = 0; r < ROWS; r++) sums.at[r] += v * factor.at(b)[r];
    });
    for (int r = 0; r < ROWS; r++) lanes.store(weight + r * size + c, sums.at[r]);
  });
}

// The same for any number of rows; and bias[r] = sum_b factor[b, r]. Both results may be null.
template <class A>
inline void sum_over_batch(int64_t batch, Column<A> factor, int64_t rows, Column<A> value,
                           int64_t size, A* weight, A* bias) {
  if (weight) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8)
      sum_products<8>(batch, {.data = factor.data + r, .stride = factor.stride}, value, size,
                      weight + r * size);
    for (; r < rows; r++)
      sum_products<1>(batch, {.data = factor.data + r, .stride = factor.stride}, value, size,
                      weight + r * size);
  }
  if (bias)
    for_lanes<A>(rows, [&](auto lanes, int64_t r) {
      const auto sum = over_batch<Vec<A>>(
          batch, [=](int64_t b, Vec<A>& sum) { sum += lanes.load(factor.at(b) + r); });
      lanes.store(bias + r, sum);
    });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
