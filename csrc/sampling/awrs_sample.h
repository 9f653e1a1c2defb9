// One row of adaptive weighted rejection sampling under a constraint that is a function: candidates
// are drawn one after the other as verdicts on them are wanted, so none is drawn in vain.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/logits.h"
#include "sampling/awrs_walk.h"
#include "sampling/batch.h"

namespace thrifty::sampling {

struct AwrsSampled {
  int64_t token = -1;
  double logw = kNoLogit;
  int64_t checked = 0;
  Status status = kNothingAllowed;
};

struct AwrsStream {
  int64_t seed = 0, offset = 0;
};

// Asks about ids[n]: one verdict each, in order. May throw.
template <class Check>
AwrsSampled awrs_sample_row(RowMass& mass, const AwrsRule& rule, const AwrsStream& stream,
                            int64_t lookahead, const Check& check) {
  if (!mass.valid()) return {.status = kInvalid};
  const double lse = mass.all().log();
  const bool paper = rule.estimator == AwrsEstimator::kPaper;
  const auto coin = [&](int64_t j) {
    return uniforms(stream.seed, stream.offset, Stream::kCoins, uint32_t(j)).u;
  };
  AwrsWalk walk(rule);
  AwrsSampled found;
  std::vector<int64_t> ids;
  std::vector<double> logp, log_rest;
  for (bool ended = false; !walk.done();) {
    const int64_t more = walk.needed() - walk.checked();
    const int64_t wanted = walk.position() < 0 ? std::max(more, lookahead) : more;
    const int64_t count = std::min(wanted, rule.budget - found.checked);
    ids.clear(), logp.clear(), log_rest.clear();
    for (int64_t i = 0; i < count && !ended; ++i) {
      const int64_t j = walk.checked() + i;
      const double rest = mass.all().log_of(mass.kept());
      if (paper && walk.coin_ends(rest, coin(j))) break;
      const Uniforms random = uniforms(stream.seed, stream.offset, Stream::kDraws, uint32_t(j));
      double log_weight = 0;
      const int64_t token = mass.draw(random.u, random.v, &log_weight);
      ended = token < 0;
      if (ended) break;
      mass.remove(token);
      ids.push_back(token), log_rest.push_back(rest);
      logp.push_back(std::min(log_weight - lse, rest));
    }
    if (ids.empty()) {
      walk.end_of_order();  // or a coin has ended the walk
      break;
    }
    const std::vector<uint8_t> verdicts = check(ids);
    found.checked += int64_t(ids.size());
    for (size_t i = 0; i < ids.size() && !walk.done(); ++i) {
      if (paper && walk.coin_ends(log_rest[i], coin(walk.checked()))) break;
      if (verdicts[i] && found.token < 0) found.token = ids[i];
      walk.see(verdicts[i] != 0, logp[i], log_rest[i]);
    }
  }
  found.logw = std::min(0.0, walk.log_weight());
  found.status = found.token >= 0 ? kOk : walk.checked() == rule.budget ? kBudget : kNothingAllowed;
  return found;
}

}  // namespace thrifty::sampling
