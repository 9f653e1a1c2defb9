#include "attention/list.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace thrifty::attention {
namespace {

constexpr int64_t kPad = 16;  // lanes that vectors may read behind an array

void set_number(const Kit& kit, Scratch& array, int64_t i, double value) {
  if (kit.sum == 8) {
    array.as<double>()[i] = value;
  } else {
    array.as<float>()[i] = float(value);
  }
}

template <class T>
void make_mean(const Problem& p, const NodeKeys& keys, int64_t c, List& list, std::byte* work) {
  const Kit kit = p.kit();
  const int64_t begin = keys.offsets[c], end = keys.offsets[c + 1], n = end - begin;
  T* sums = reinterpret_cast<T*>(work);  // [d + dv]
  std::fill(sums, sums + p.d + p.dv, T(0));
  double norms = 0;
  for (int64_t at = begin; at < end; ++at) {
    const void* k = keys.k.from(keys.row(at), kit.size).data;
    kit.tile.add_stored(p.d, 1, k, sums);
    kit.tile.add_stored(p.dv, 1, keys.v.from(keys.row(at), kit.size).data, sums + p.d);
    norms += kit.tile.dot_stored(p.d, k, k);
  }
  const double share = 1 / double(std::max<int64_t>(n, 1));
  for (int64_t i = 0; i < p.d + p.dv; ++i) sums[i] *= T(share);
  kit.tile.to_operand(p.d, sums, list.k.data() + c * list.k_ld * kit.operand);
  kit.tile.to_operand(p.dv, sums + p.d, list.v.data() + c * list.v_ld * kit.operand);
  const double var = (norms * share - kit.tile.dot(p.d, sums, sums)) / double(p.d);
  set_number(kit, list.logw, c, std::log(double(n)));  // -infinity for none
  // A single key has no variance; what rounding leaves of it would be multiplied by |q|^2.
  set_number(kit, list.var, c, n > 1 && !(var < 0) ? var : 0);
  list.stand_for(kit, c, begin, end);
}

}  // namespace

void List::allocate(const Kit& kit, int64_t entries, int64_t d, int64_t dv) {
  count = entries;
  k_ld = round_up(d, kit.gemm.depth), v_ld = round_up(dv, kit.gemm.depth);
  k = Scratch((count + 1) * k_ld * kit.operand), v = Scratch((count + 1) * v_ld * kit.operand);
  std::memset(k.data(), 0, size_t((count + 1) * k_ld * kit.operand));
  std::memset(v.data(), 0, size_t((count + 1) * v_ld * kit.operand));
  for (Scratch* array : {&logw, &var, &share}) {
    *array = Scratch((count + kPad) * kit.sum);
    std::memset(array->data(), 0, size_t((count + kPad) * kit.sum));
  }
  // No window reaches this far.
  at.assign(size_t(count + kPad), std::numeric_limits<int32_t>::max());
  at_end.assign(size_t(count + kPad), std::numeric_limits<int32_t>::max());
}

void List::stand_for(const Kit& kit, int64_t i, int64_t begin, int64_t end) {
  at[size_t(i)] = int32_t(begin), at_end[size_t(i)] = int32_t(end);
  set_number(kit, share, i, 1 / double(std::max<int64_t>(end - begin, 1)));
}

void List::make_means(const Problem& p, const NodeKeys& keys, int64_t first, int64_t last) {
  Scratch work((p.d + p.dv) * p.kit().sum);
  for (int64_t c = first; c < last; ++c) {
    if (p.dtype == Dtype::kFloat64) {
      make_mean<double>(p, keys, c, *this, work.data());
    } else {
      make_mean<float>(p, keys, c, *this, work.data());
    }
  }
}

void List::make_keys(const Problem& p, const NodeKeys& keys) {
  const Kit kit = p.kit();
  const double weight = std::log(double(keys.sorted) / double(keys.sample_count));
  for (int64_t i = 0; i < keys.kept + keys.sample_count; ++i) {
    const int64_t entry = keys.buckets + i;
    const bool kept = i < keys.kept;
    const int64_t sorted = kept ? keys.sorted + i : keys.samples[i - keys.kept];
    const auto row = int32_t(keys.row(sorted));
    kit.tile.gather(1, p.d, keys.k.data, keys.k.stride, &row, k.data() + entry * k_ld * kit.operand,
                    k_ld);
    kit.tile.gather(1, p.dv, keys.v.data, keys.v.stride, &row,
                    v.data() + entry * v_ld * kit.operand, v_ld);
    set_number(kit, logw, entry, kept ? 0 : weight);
    if (!kept) stand_for(kit, entry, sorted, sorted + 1);
  }
}

void List::pack(const Problem& p) {
  const Kit kit = p.kit();
  if (count == 0) return;
  const int64_t full = blocks() - 1, rest = columns(full);
  k_panels =
      Scratch(full * kit.gemm.panels_bytes(p.d, kTileColumns) + kit.gemm.panels_bytes(p.d, rest));
  v_panels =
      Scratch(full * kit.gemm.panels_bytes(kTileColumns, p.dv) + kit.gemm.panels_bytes(rest, p.dv));
  for (int64_t b = 0; b < blocks(); ++b) {
    const std::byte* k_rows = k.data() + b * kTileColumns * k_ld * kit.operand;
    const std::byte* v_rows = v.data() + b * kTileColumns * v_ld * kit.operand;
    kit.gemm.pack_operand(p.d, columns(b), {k_rows, 1, k_ld},
                          k_panels.data() + b * kit.gemm.panels_bytes(p.d, kTileColumns));
    kit.gemm.pack_operand(columns(b), p.dv, {v_rows, v_ld, 1},
                          v_panels.data() + b * kit.gemm.panels_bytes(kTileColumns, p.dv));
  }
  k = Scratch(), v = Scratch();
}

ScoreBlock List::score_block(const Kit& kit, int64_t block) const {
  const int64_t first = block * kTileColumns;
  ScoreBlock b{};
  b.columns = columns(block);
  b.logw = logw.data() + first * kit.sum, b.share = share.data() + first * kit.sum;
  b.var = with_var ? var.data() + first * kit.sum : nullptr;
  b.at = at.data() + first, b.at_end = at_end.data() + first;
  return b;
}

}  // namespace thrifty::attention
