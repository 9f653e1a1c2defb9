// Every way a call of awrs_weights can be wrong.
#include "core/error.h"
#include "sampling/awrs_weights.h"

namespace thrifty::sampling {
namespace {

constexpr const char* kOp = "awrs_weights";

void check_matrix(const char* name, const Array& a, int64_t rows, int64_t k) {
  THRIFTY_CHECK(a.ndim == 2 && a.shape[0] == rows && a.shape[1] == k, kOp, ": ", name,
                ": expected shape (", rows, ", ", k, ") like allowed, got ", shape_text(a));
}

void check_dtype(const char* name, const Array& a, Dtype dtype, const char* why) {
  THRIFTY_CHECK(a.dtype == dtype, kOp, ": ", name, ": expected ", dtype_name(dtype), why, ", got ",
                dtype_name(a.dtype));
}

}  // namespace

AwrsRule check_awrs_rule(const char* op, std::string_view estimator, int64_t extra,
                         int64_t budget) {
  THRIFTY_CHECK(budget >= 0, op, ": budget: expected None or a positive number, got ", budget);
  AwrsRule rule;
  if (budget > 0) rule.budget = budget;
  if (estimator == "recursive") {
    rule.extra = 1;
  } else if (estimator == "paper") {
    rule.estimator = AwrsEstimator::kPaper;
    THRIFTY_CHECK(budget == 0, op, ": budget: expected None with the estimator paper, whose second ",
                  "loop may not be cut short, got ", budget);
  } else if (estimator == "none") {
    rule.estimator = AwrsEstimator::kNone;
  } else {
    THRIFTY_CHECK(estimator == "desraj", op,
                  ": estimator: expected desraj, recursive, paper or none, got ", estimator);
    THRIFTY_CHECK(extra > 0, op, ": extra: expected a positive number, got ", extra);
    rule.extra = extra;
  }
  return rule;
}

AwrsWeights check_awrs_weights(const AwrsWeightsArgs& args) {
  AwrsWeights problem;
  problem.rule = check_awrs_rule(kOp, args.estimator, args.extra, args.budget);
  check_dtype("allowed", args.allowed, Dtype::kUInt8, " (1 allowed, 0 refused, 2 not known yet)");
  THRIFTY_CHECK(args.allowed.ndim == 2, kOp, ": allowed: expected shape (B, K), got ",
                shape_text(args.allowed));
  problem.rows = args.allowed.shape[0], problem.k = args.allowed.shape[1];
  problem.dtype = args.logp.dtype;
  THRIFTY_CHECK(problem.dtype == Dtype::kFloat32 || problem.dtype == Dtype::kFloat64, kOp,
                ": logp: expected float32 or float64, got ", dtype_name(problem.dtype));
  check_matrix("logp", args.logp, problem.rows, problem.k);
  check_matrix("log_rest", args.log_rest, problem.rows, problem.k);
  check_dtype("log_rest", args.log_rest, problem.dtype, " like logp");
  THRIFTY_CHECK(args.log_tail.ndim == 1 && args.log_tail.shape[0] == problem.rows, kOp,
                ": log_tail: expected shape (", problem.rows, ",), got ",
                shape_text(args.log_tail));
  check_dtype("log_tail", args.log_tail, problem.dtype, " like logp");
  if (args.coins) {
    check_matrix("coins", args.coins, problem.rows, problem.k);
    check_dtype("coins", args.coins, Dtype::kFloat64, "");
  }
  THRIFTY_CHECK(args.coins || problem.rule.estimator != AwrsEstimator::kPaper, kOp,
                ": coins: expected uniform numbers (B, K) for the estimator paper, got None");
  problem.allowed = static_cast<const uint8_t*>(args.allowed.data);
  problem.logp = args.logp.data;
  problem.log_rest = args.log_rest.data;
  problem.log_tail = args.log_tail.data;
  problem.coins = static_cast<const double*>(args.coins.data);
  return problem;
}

}  // namespace thrifty::sampling
