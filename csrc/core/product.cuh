// What block products of all families share: the place of a block, and what an operand says.
//
// A block sums A B^T over the depths of some members (batch entries, experts). An operand is a set
// of rows, depth-contiguous (rows are m or n, columns the depth) or outer-contiguous (rows are the
// depth), which is part of the kernel's type. It is any struct with
//
//   data, vector       its first element; elements that one access may take: addresses, strides
//                      and widths divide by it
//   has_row(j, q)      whether member j has row q; asked of depth-contiguous operands
//   at(j, q)           where the row begins, in elements
//   left(c), column(c) the elements from column c on, and where column c lies in its row
//
// A product has operands `a` and `b`, and depth_stop(product, place, j), the end of member j's
// depths in the block.
#pragma once

#include "core/element.cuh"

namespace thrifty::cuda {

// What one block computes: kM x kN sums from (m, n) on, over the members [member, member_end) and
// of each the depths [depth, depth_end).
struct Place {
  int m = 0, n = 0;
  int member = 0, member_end = 0;
  int depth = 0, depth_end = 0;
};

// The depth tiles of a block, member by member; each member has at least one, be it of zeros.
struct DepthTile {
  int member, depth;

  template <class Product>
  THRIFTY_DEVICE DepthTile next(const Product& product, const Place& place, int step) const {
    return depth + step < depth_stop(product, place, member) ? DepthTile{member, depth + step}
                                                             : DepthTile{member + 1, place.depth};
  }
};

THRIFTY_HOST_DEVICE int tiles(int count, int size) { return count / size + (count % size != 0); }

// The grid of so many blocks, or false where CUDA has none of that size.
inline bool one_dimensional_grid(int64_t blocks, dim3& grid) {
  grid = dim3(unsigned(blocks));
  return blocks >= 0 && blocks <= INT32_MAX;
}

}  // namespace thrifty::cuda
