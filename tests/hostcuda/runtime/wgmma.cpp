// wgmma: every warp keeps its own queue of products and computes its 16 rows at the wait.
//
// The four warps of a warpgroup are not held together, as the hardware does not; instead their
// queues are compared, product by product.
#include "hostcuda/runtime/wgmma_tile.h"

#include <array>
#include <map>

#include "hostcuda/runtime/collective.h"
#include "hostcuda/runtime/race.h"
#include "hostcuda/runtime/state.h"

namespace thrifty::cuda::host {

namespace {

using Fragments = std::array<std::vector<float>, 32>;  // by lane

struct Product {
  WgmmaShape shape;
  uint64_t a, b;
  std::array<std::array<uint32_t, 4>, 32> a_registers;
  std::array<float*, 32> d;
  bool accumulate;
  int batch;
  const void* code;

  bool agrees(const Product& other) const {
    return shape == other.shape && a == other.a && b == other.b && accumulate == other.accumulate;
  }
};

struct WarpQueue {
  std::vector<Product> in_flight;
  std::map<const float*, Fragments> accumulators;  // of products in flight, by lane 0's registers
  int batch = 0;
  bool fenced = false;
  size_t issued = 0;
};

WarpQueue queues[32];
std::vector<Product> logs[8];  // by warpgroup: what its fastest warp has issued

constexpr WarpOp kIssue{"wgmma", true, false};

void check_against_log(int warp, const Product& product, size_t number, const Site& site) {
  auto& log = logs[warp / 4];
  if (number == log.size())
    log.push_back(product);
  else if (!log[number].agrees(product))
    fail(site, "wgmma: the warps of the warpgroup do not issue the same product");
}

void note_tile_reads(int warp, const Product& product) {
  const int unit = race::unit_of_warp(warp);
  const auto note = [&](const void* chunk) { race::async_read(chunk, 16, unit, product.code); };
  if (!product.shape.a_in_registers)
    for_each_chunk(product.a, product.shape.a, warp % 4 * 16, 16, note);
  for_each_chunk(product.b, product.shape.b, 0, product.shape.n, note);
}

void check_tile(uint64_t descriptor, Major major, int count, const char* name, const Site& site) {
  check_descriptor(descriptor, name, site);
  for_each_chunk(descriptor, major, 0, count,
                 [&](const void* chunk) { require_shared(name, chunk, 16, 16, site); });
}

void enqueue(int warp, Product product, const Site& site) {
  WarpQueue& queue = queues[warp];
  if (!queue.fenced) fail(site, "wgmma: no wgmma_fence since the last wgmma_commit");
  if (!product.shape.a_in_registers) check_tile(product.a, product.shape.a, 64, "wgmma A", site);
  check_tile(product.b, product.shape.b, product.shape.n, "wgmma B", site);
  check_against_log(warp, product, queue.issued++, site);
  const size_t registers = size_t(product.shape.n / 2);
  const auto [at, fresh] = queue.accumulators.try_emplace(product.d[0]);
  if (fresh)
    for (size_t lane = 0; lane < 32; ++lane) {
      at->second[lane].assign(product.d[lane], product.d[lane] + registers);
      fill_poison(product.d[lane], registers * sizeof(float));
    }
  for (int lane = 0; lane < 32; ++lane) race::hand_over(warp * 32 + lane, race::unit_of_warp(warp));
  note_tile_reads(warp, product);
  queue.in_flight.push_back(product);
}

void compute(int warp, const Product& product, Fragments& d) {
  const bool fp16_values = product.shape.fp16;
  const std::vector<float> a =
      product.shape.a_in_registers
          ? fragment_values(product.a_registers, fp16_values)
          : tile_values(product.a, product.shape.a, warp % 4 * 16, 16, fp16_values);
  const std::vector<float> b =
      tile_values(product.b, product.shape.b, 0, product.shape.n, fp16_values);
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < product.shape.n / 2; ++i) {
      const size_t row = size_t(lane / 4 + i / 2 % 2 * 8);
      const size_t column = size_t(i / 4 * 8 + lane % 4 * 2 + i % 2);
      double sum = 0;
      for (size_t k = 0; k < 16; ++k) sum += double(a[row * 16 + k]) * double(b[column * 16 + k]);
      float& out = d[size_t(lane)][size_t(i)];
      out = float((product.accumulate ? double(out) : 0.0) + sum);
    }
}

// Finishes what was committed before the newest `pending` batches.
void finish(int warp, int pending) {
  WarpQueue& queue = queues[warp];
  size_t done = 0;
  for (; done < queue.in_flight.size(); ++done) {
    const Product& product = queue.in_flight[done];
    if (product.batch >= queue.batch - pending) break;
    note_tile_reads(warp, product);  // it may have been reading until now
    compute(warp, product, queue.accumulators.at(product.d[0]));
  }
  const std::vector<Product> finished(queue.in_flight.begin(),
                                      queue.in_flight.begin() + long(done));
  queue.in_flight.erase(queue.in_flight.begin(), queue.in_flight.begin() + long(done));
  for (const Product& product : finished) {
    const auto at = queue.accumulators.find(product.d[0]);
    if (at == queue.accumulators.end()) continue;
    bool again = false;
    for (const Product& later : queue.in_flight) again |= later.d[0] == product.d[0];
    if (again) continue;
    for (size_t lane = 0; lane < 32; ++lane)
      std::copy(at->second[lane].begin(), at->second[lane].end(), product.d[lane]);
    queue.accumulators.erase(at);
  }
  race::Knowledge read;
  race::tell(race::unit_of_warp(warp), read);
  for (int lane = 0; lane < 32; ++lane) race::learn(warp * 32 + lane, read);
}

int own_warp(const char* op, const Site& site) {
  const int warp = self(op).warp();
  if ((warp / 4 + 1) * 128 > current().threads)
    fail(site, std::string(op) + ": the thread's warpgroup does not have 128 threads");
  return warp;
}

// Runs `body` once for the warp, when all its lanes have come.
template <class Body>
void once_per_warp(const WarpOp& op, const Site& site, Body&& body) {
  warp_operation<bool>(op, 0xffffffffu, true, site, [&](auto, auto) { body(); });
}

}  // namespace

void wgmma_begin_block() {
  for (WarpQueue& queue : queues) queue = WarpQueue();
  for (auto& log : logs) log.clear();
}

void wgmma_end_block() {
  for (int warp = 0; warp * 32 < current().threads; ++warp) {
    if (!queues[warp].in_flight.empty())
      record_failure(block_place() + " warp " + std::to_string(warp) +
                     " ends with a wgmma it never waited for");
    if (queues[warp].issued != logs[warp / 4].size())
      record_failure(block_place() + ": wgmma: warp " + std::to_string(warp) + " issued " +
                     std::to_string(queues[warp].issued) + " products, its warpgroup " +
                     std::to_string(logs[warp / 4].size()));
  }
}

void wgmma_issue(const WgmmaShape& shape, const WgmmaInput& input, const Site& site) {
  const race::Quiet quiet;
  const int warp = own_warp("wgmma", site);
  const void* code = __builtin_return_address(0);
  warp_operation<bool>(kIssue, 0xffffffffu, input, site, [&](auto in, auto) {
    Product product{shape, in(0)->a, in(0)->b, {}, {}, in(0)->accumulate, queues[warp].batch, code};
    for (int lane = 0; lane < 32; ++lane) {
      const WgmmaInput& of = *in(lane);
      if (of.a != product.a || of.b != product.b || of.accumulate != product.accumulate)
        fail(site, "wgmma: the lanes of the warp do not agree on the operands");
      std::copy(of.a_registers, of.a_registers + 4, product.a_registers[size_t(lane)].begin());
      product.d[size_t(lane)] = of.d;
    }
    enqueue(warp, product, site);
  });
}

void wgmma_fence(const Site& site) {
  const race::Quiet quiet;
  const int warp = own_warp("wgmma_fence", site);
  once_per_warp({"wgmma_fence", true}, site, [&] { queues[warp].fenced = true; });
}

void wgmma_commit(const Site& site) {
  const race::Quiet quiet;
  const int warp = own_warp("wgmma_commit", site);
  once_per_warp({"wgmma_commit", true}, site, [&] {
    ++queues[warp].batch;
    queues[warp].fenced = false;
  });
}

void wgmma_wait(int pending, const Site& site) {
  const race::Quiet quiet;
  const int warp = own_warp("wgmma_wait", site);
  once_per_warp({"wgmma_wait", true}, site, [&] { finish(warp, pending); });
}

}  // namespace thrifty::cuda::host
