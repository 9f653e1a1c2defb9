// What is left of p at a node while its children are tested: p on the support of q, and one number
// for the rest, where q is 0 and p keeps its shape.
#pragma once

#include <cstdint>
#include <vector>

#include "drafting/target_row.h"

namespace thrifty::drafting {

class Residual {
 public:
  // ids[n], q[n]: the support, -1 pads.
  void start(const TargetRow& row, const int32_t* ids, const float* q, int64_t n);

  // Whether `token`, drawn from q, is accepted with coin u in [0, 1): u q < p. If not, p becomes
  // norm(max(p - q, 0)) and q loses the token. A token that q cannot give is refused, and changes
  // nothing.
  bool accept(int32_t token, double u);

  // A token of what is left; `row` is the one that it was started with.
  int32_t draw(TargetRow& row, int64_t seed, int64_t position);

  // For block verification: p <- max(share p - q, 0), not normalised; returns its sum.
  double subtract(double share);

 private:
  void normalise();

  std::vector<int32_t> ids_;
  std::vector<double> p_, q_;
  double outside_ = 0;  // of p
};

}  // namespace thrifty::drafting
