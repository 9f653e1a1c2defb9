// The block kernels of logits.h on every instruction set and dtype against loops in double; rows,
// draws and selections against the same.
#include "core/logits.h"

#include <set>

#include "check.h"
#include "guarded.h"
#include "tables.h"

namespace thrifty::test {
namespace {

constexpr Dtype kDtypes[] = {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16};
constexpr int64_t kLengths[] = {1, 7, 8, 31, 32, 33, 64, 100, 1000, 1023, 1024};
constexpr double kInf = INFINITY;

// A block of random logits, a third of them equal, some -inf, and a mask; [n].
struct Sample {
  Guarded logits;
  uint32_t words[kBlockWords];
  bool masked;
  float at_least, inv_temperature;

  Sample(Dtype dtype, int64_t n, Random& random, bool masked, float at_least, float scale)
      : logits(dtype, n), masked(masked), at_least(at_least), inv_temperature(scale) {
    for (int64_t i = 0; i < n; ++i) {
      const uint64_t kind = random.bits() % 12;
      logits.set(i, kind == 0 ? -kInf : kind < 4 ? 1.5 : random.uniform(-20, 20));
    }
    for (uint32_t& word : words) word = uint32_t(random.bits());
  }
  LogitsBlock block() const {
    return {logits.data(), logits.size(), masked ? words : nullptr, at_least, inv_temperature};
  }
  bool kept(int64_t i) const {
    const bool allowed = !masked || (words[i / 32] >> (i % 32) & 1);
    return allowed && logits[i] >= double(at_least);
  }
  // w of logit i, relative to `top`
  double log2_weight(int64_t i, double top) const {
    const float scale = log2_scale(inv_temperature);
    return logits[i] == -kInf ? -kInf : logits[i] * double(scale) - exponent_of(float(top), scale);
  }
  double max(bool only_kept) const {
    double top = -kInf;
    for (int64_t i = 0; i < logits.size(); ++i) {
      if (!only_kept || kept(i)) top = std::max(top, logits[i]);
    }
    return top;
  }
  double sum(bool only_kept, double top, double* weighted = nullptr) const {
    double sum = 0, moment = 0;
    for (int64_t i = 0; i < logits.size(); ++i) {
      if (only_kept && !kept(i)) continue;
      const double y = log2_weight(i, top), w = std::exp2(y);
      sum += w;
      if (w > 1e-38) moment += w * y;
    }
    if (weighted != nullptr) *weighted = moment;
    return sum;
  }
};

bool near(double got, double want, double tolerance = 2e-6) {
  return got == want || std::fabs(got - want) <= tolerance * std::max(std::fabs(want), 1e-30);
}

void check_mass(const char* isa, const BlockMass& got, const Sample& sample, bool only_kept) {
  const double top = sample.max(only_kept);
  if (top == -kInf) {
    EXPECT(got.sum == 0 && got.exponent == -kInf, isa, ": no mass");
    return;
  }
  // The block's own reference, or that of all tokens: the mass is the same.
  const double want = sample.sum(only_kept, top);
  const double exponent = exponent_of(float(top), log2_scale(sample.inv_temperature));
  const double mass = double(got.sum) * std::exp2(got.exponent - exponent);
  // 4e-6: kept tokens may lie 60 powers of two below the block's reference, which is 24 bits of 60.
  EXPECT(near(mass, want, 4e-6), isa, ": mass ", mass, ", want ", want,
         ", n = ", sample.logits.size());
}

void check_block(const Tables& tables, Dtype dtype, Random& random, const Sample& sample) {
  const LogitsKernels& k = tables.logits.storage[int(dtype)];
  const LogitsBlock block = sample.block();
  const char* isa = tables.isa;
  const int64_t n = sample.logits.size();

  BlockMass all, kept;
  k.masses(block, &all, &kept);
  check_mass(isa, all, sample, false);
  check_mass(isa, kept, sample, true);

  const double top = sample.max(true);
  EXPECT(k.max(block) == top, isa, ": max ", k.max(block), ", want ", top);
  if (top > -kInf) {
    float weighted = 0;
    double moment = 0;
    const double want = sample.sum(true, top, &moment);
    const float sum = k.sum(block, float(top), &weighted);
    EXPECT(near(sum, want), isa, ": sum ", sum, ", want ", want);
    EXPECT(std::fabs(weighted - moment) <= 1e-5 * (1 + std::fabs(moment) + want), isa, ": moment ",
           weighted, ", want ", moment);
    float weights[kLogitsBlock];
    k.weights(block, float(top), weights);
    for (int64_t i = 0; i < kLogitsBlock; ++i) {
      const bool counts = i < n && sample.kept(i);
      const double y = counts ? sample.log2_weight(i, top) : 0, w = counts ? std::exp2(y) : 0;
      const bool tiny = w < 1e-37;
      const double tolerance = 1e-7 * (4 - y);  // y itself has 24 bits
      EXPECT(tiny ? weights[i] < 1e-37 : near(weights[i], w, tolerance), isa, ": weight ", i,
             " is ", weights[i], ", want ", w);
      EXPECT(w > 0 || weights[i] == 0, isa, ": weight ", i, " of a token that is not kept");
    }
  }

  std::vector<Ranked> found(kLogitsBlock);
  const float bound = float(random.uniform(-10, 10));
  found.resize(size_t(k.collect(block, bound, 5000, found.data())));
  size_t next = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (!sample.kept(i) || sample.logits[i] < double(bound)) continue;
    const bool right = next < found.size() && found[next].id == 5000 + i &&
                       double(found[next].logit) == sample.logits[i];
    EXPECT(right, isa, ": collect misses ", i);
    ++next;
  }
  EXPECT(next == found.size(), isa, ": collect finds ", found.size(), ", want ", next);

  const LogitMoments m = k.moments(block);
  double count = 0, sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (sample.kept(i) && sample.logits[i] > -kInf) ++count, sum += sample.logits[i];
  }
  for (int64_t i = 0; i < n; ++i) {
    const bool counts = sample.kept(i) && sample.logits[i] > -kInf;
    if (counts) squares += std::pow(sample.logits[i] - sum / count, 2);
  }
  EXPECT(m.count == count && m.max == sample.max(true), isa, ": count ", m.count);
  if (count > 0) {
    EXPECT(std::fabs(m.mean - sum / count) < 1e-4, isa, ": mean ", m.mean);
    EXPECT(std::fabs(m.squares - squares) <= 1e-4 * (1 + squares), isa, ": squares ", m.squares);
  }
}

void blocks() {
  Random random(1);
  for (const Tables& tables : all_tables()) {
    for (const Dtype dtype : kDtypes) {
      for (const int64_t n : kLengths) {
        for (const bool masked : {false, true}) {
          for (const float at_least : {kNoLogit, 2.0f}) {
            // The last two are beyond what one fused product holds.
            constexpr float kScales[] = {1.0f, 0.37f, 1.0f, 0.37f, 5e5f, 1e-37f};
            const float scale = kScales[random.bits() % 6];
            check_block(tables, dtype, random, {dtype, n, random, masked, at_least, scale});
          }
        }
      }
    }
  }
}

// A NaN or +inf at any place, whether its token is kept or not.
void what_is_no_number() {
  Random random(2);
  for (const Tables& tables : all_tables()) {
    for (const Dtype dtype : kDtypes) {
      for (const int64_t n : {int64_t(1), int64_t(33), int64_t(1024)}) {
        for (const double bad : {double(NAN), -double(NAN), kInf}) {
          Sample sample(dtype, n, random, true, kNoLogit, 1);
          for (uint32_t& word : sample.words) word = 0;
          const int64_t place = int64_t(random.bits() % uint64_t(n));
          sample.logits.set(place, bad);
          BlockMass all, kept;
          tables.logits.storage[int(dtype)].masses(sample.block(), &all, &kept);
          EXPECT(all.sum != all.sum, tables.isa, ": ", bad, " at ", place, " of ", n);
          EXPECT(kept.sum == 0, tables.isa, ": kept ", kept.sum);
        }
      }
    }
  }
}

// Rows: masses, draws by the uniforms that say which token, removal, selection.
void rows() {
  Random random(3);
  for (const int64_t vocab : {1, 40, 1024, 1025, 5000}) {
    std::vector<float> logits(static_cast<size_t>(vocab));
    for (float& l : logits) l = float(random.uniform(-6, 6));
    std::vector<uint32_t> mask(size_t(vocab + 31) / 32);
    for (uint32_t& word : mask) word = uint32_t(random.bits()) | 1;
    LogitsRow row;
    row.logits = logits.data();
    row.vocab = vocab;
    row.inv_temperature = 0.8f;
    row.mask = mask.data();
    row.mask_words = int64_t(mask.size());
    RowMass mass;
    mass.measure(row);
    std::vector<double> w(logits.size());
    double sum = 0, all = 0;
    for (size_t t = 0; t < w.size(); ++t) {
      const double weight = std::exp(double(logits[t]) * log_scale(0.8f));
      all += weight;
      w[t] = mask[t / 32] >> (t % 32) & 1 ? weight : 0;
      sum += w[t];
    }
    EXPECT(std::fabs(mass.kept().log() - std::log(sum)) < 1e-6, vocab);
    EXPECT(std::fabs(mass.all().log_of(mass.kept()) - std::log(sum / all)) < 1e-6, vocab);
    // Without replacement, to the last token: each has its probability, none comes twice.
    std::set<int64_t> seen;
    for (int64_t left = std::count_if(w.begin(), w.end(), [](double x) { return x > 0; }); left > 0;
         --left) {
      const int64_t id = mass.draw(random.uniform(0, 1), random.uniform(0, 1));
      const bool fresh = id >= 0 && id < vocab && w[size_t(id)] > 0 && seen.insert(id).second;
      EXPECT(fresh, vocab, " tokens, drew ", id);
      if (!fresh) return;
      const double logp = std::log(w[size_t(id)] / sum);
      EXPECT(std::fabs(mass.log_probability(id) - logp) < 1e-5, mass.log_probability(id), logp);
      mass.remove(id);
      w[size_t(id)] = 0;
      sum = 0;
      for (const double x : w) sum += x;
    }
    EXPECT(mass.draw(0.5, 0.5) == -1 && mass.kept().log() == -kInf, vocab);
  }
}

// What is removed may outweigh what is left by any factor.
void removal_of_nearly_everything() {
  std::vector<float> logits(3000, -kInf);
  logits[5] = 1000, logits[6] = 0, logits[2999] = -1000;
  LogitsRow row;
  row.logits = logits.data();
  row.vocab = 3000;
  RowMass mass;
  mass.measure(row);
  for (const int64_t id : {5, 6, 2999}) {
    EXPECT(mass.draw(0.3, 0.9) == id, id);
    EXPECT(std::fabs(mass.kept().log() - double(logits[size_t(id)])) < 1e-3, mass.kept().log());
    EXPECT(std::fabs(mass.log_probability(id)) < 1e-6, mass.log_probability(id));
    mass.remove(id);
  }
  EXPECT(mass.draw(0.3, 0.9) == -1);
  mass.remove(-1), mass.remove(3000);  // outside: nothing happens
}

void largest() {
  Random random(4);
  for (const int64_t vocab : {1, 33, 1500, 9000}) {
    for (int order = 0; order < 4; ++order) {
      std::vector<float> logits(static_cast<size_t>(vocab));
      for (size_t t = 0; t < logits.size(); ++t) {
        const float ramp = float(t) / 8;
        logits[t] = order == 0 ? ramp : order == 1 ? -ramp : float(random.bits() % 50);
        if (order == 3 && t % 3 == 0) logits[t] = t % 2 ? NAN : float(-kInf);
      }
      LogitsRow row;
      row.logits = logits.data();
      row.vocab = vocab;
      std::vector<float> maxima(size_t(row.blocks()));
      block_maxima(row, maxima.data());
      std::vector<Ranked> want, got;
      for (size_t t = 0; t < logits.size(); ++t) {
        if (logits[t] > -kInf) want.push_back({logits[t], int32_t(t)});
      }
      std::sort(want.begin(), want.end());
      for (const int64_t k : {1, 2, 9, 128, 1000, 20000}) {
        top_k(row, maxima.data(), k, got);
        bool same = got.size() == std::min(want.size(), size_t(k));
        for (size_t i = 0; same && i < got.size(); ++i) {
          same = got[i].id == want[i].id && got[i].logit == want[i].logit;
        }
        EXPECT(same, "top ", k, " of ", vocab, ", order ", order, ": ", got.size());
      }
    }
  }
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"blocks", blocks},
                    {"what is no number", what_is_no_number},
                    {"rows", rows},
                    {"removal of nearly everything", removal_of_nearly_everything},
                    {"largest", largest}});
}
