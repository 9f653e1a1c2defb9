// One walk through a without-replacement order: which token is returned and how it is weighted.
//
// The first allowed candidate x is an exact sample of p(. | allowed). The walk then estimates
// Z = p(allowed) from the candidates that follow, so that E[Zhat 1(x = a)] = p(a) for each allowed a:
//   Des Raj   mean over `extra` following candidates y of t = acc + rest 1[y allowed], where acc is
//             the allowed mass seen before y and rest the mass not yet seen; each t has mean Z.
//   paper     (1 - psi0) / (rejections + 1) of AWRS's two loops (arXiv 2504.05410, Prop. 3), the
//             second one continued on the same order with a coin for drawing x again.
//   none      weight 1, the biased sampler that masks locally.
// One extra term is what genlm-control calls recursive AWRS. Masses are sums that were taken of
// what is left, never 1 - S, and are kept relative to the mass before x: Z = 1e-300 is no problem.
// A budget bounds the verdicts: a walk that finds nothing gets weight 0, one that finds x with the
// last verdict the mass before x, and the mean is still exact.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/philox.h"  // THRIFTY_ANY_SIDE

namespace thrifty::sampling {

enum class AwrsEstimator : int { kDesRaj, kPaper, kNone };

constexpr int64_t kNoBudget = INT64_MAX;

struct AwrsRule {
  AwrsEstimator estimator = AwrsEstimator::kDesRaj;
  int64_t extra = 4;             // at least 1; read by Des Raj
  int64_t budget = kNoBudget;  // at least 1
};

class AwrsWalk {
 public:
  THRIFTY_ANY_SIDE explicit AwrsWalk(const AwrsRule& rule) : rule_(rule) {}

  THRIFTY_ANY_SIDE bool done() const { return done_; }
  THRIFTY_ANY_SIDE int64_t checked() const { return checked_; }
  THRIFTY_ANY_SIDE int64_t position() const { return position_; }  // of x in the order, or -1
  THRIFTY_ANY_SIDE double log_weight() const { return log_weight_; }

  // Verdicts, from the first candidate on, without which nothing further can be decided.
  THRIFTY_ANY_SIDE int64_t needed() const {
    const bool extras = position_ >= 0 && rule_.estimator == AwrsEstimator::kDesRaj;
    return done_ ? checked_ : extras ? position_ + 1 + terms_ : checked_ + 1;
  }

  // Before each verdict, with a uniform number: whether the paper's second loop ends here.
  THRIFTY_ANY_SIDE bool coin_ends(double log_rest, double coin) {
    if (done_ || position_ < 0 || rule_.estimator != AwrsEstimator::kPaper) return done_;
    const double rest = std::exp(log_rest - log_before_);
    if (coin * (rest + accepted_) < accepted_) finish_paper();
    return done_;
  }

  // The verdict on the next candidate; log_rest is the log of all mass not seen before it.
  THRIFTY_ANY_SIDE void see(bool allowed, double logp, double log_rest) {
    const int64_t at = checked_++;
    if (position_ < 0) {
      if (allowed) {
        accept(at, logp, log_rest);
      } else if (checked_ == rule_.budget) {
        finish(-INFINITY);
      }
    } else if (rule_.estimator == AwrsEstimator::kPaper) {
      allowed ? finish_paper() : void(++rejected_);
    } else {
      sum_ += accepted_ + (allowed ? std::exp(log_rest - log_before_) : 0);
      accepted_ += allowed ? std::exp(logp - log_before_) : 0;
      if (checked_ == position_ + 1 + terms_) finish_mean();
    }
  }

  // No candidate is left: all mass has been seen.
  THRIFTY_ANY_SIDE void end_of_order() {
    if (done_) return;
    if (position_ < 0) return finish(-INFINITY);
    if (rule_.estimator == AwrsEstimator::kPaper) return finish_paper();
    sum_ += accepted_ * double(position_ + 1 + terms_ - checked_);  // missing terms equal Z
    finish_mean();
  }

 private:
  THRIFTY_ANY_SIDE void accept(int64_t at, double logp, double log_rest) {
    position_ = at, rejected_ = at;
    log_before_ = log_rest;
    accepted_ = std::exp(logp - log_rest);
    if (rule_.estimator == AwrsEstimator::kNone) return finish(0);
    const int64_t left = rule_.budget - checked_;
    terms_ = rule_.extra < left ? rule_.extra : left;
    if (terms_ == 0) finish(log_before_);
  }
  THRIFTY_ANY_SIDE void finish_mean() {
    finish(log_before_ + std::log(sum_ / double(terms_)));
  }
  THRIFTY_ANY_SIDE void finish_paper() { finish(log_before_ - std::log(double(rejected_ + 1))); }
  THRIFTY_ANY_SIDE void finish(double log_weight) { log_weight_ = log_weight, done_ = true; }

  AwrsRule rule_;
  int64_t checked_ = 0, position_ = -1, rejected_ = 0, terms_ = 0;
  double log_before_ = 0;              // log of the mass before x
  double accepted_ = 0, sum_ = 0;      // relative to that mass
  double log_weight_ = -INFINITY;
  bool done_ = false;
};

}  // namespace thrifty::sampling
