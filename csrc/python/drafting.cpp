// The drafting family on NumPy arrays: the n-gram table, which outlives calls, and its drafts.
#include <memory>
#include <system_error>
#include <utility>
#include <variant>

#include "drafting/ngram_check.h"
#include "python/arena.h"
#include "python/numpy_edge.h"

namespace thrifty::python {
namespace {

using drafting::Contexts;
using drafting::DraftTemplate;
using drafting::Followers;
using drafting::NgramTable;
using Int32 = py::array_t<int32_t, py::array::c_style>;
using Int64 = py::array_t<int64_t, py::array::c_style>;
using Float32 = py::array_t<float, py::array::c_style>;

std::unique_ptr<NgramTable> make_table(int64_t capacity, int64_t k, int64_t n_min, int64_t n_max,
                                       int64_t count_cap, int64_t seed, int64_t vocab_size,
                                       const std::string& vocab) {
  return std::make_unique<NgramTable>(drafting::NgramOptions{.capacity = capacity,
                                                             .k = k,
                                                             .n_min = n_min,
                                                             .n_max = n_max,
                                                             .count_cap = count_cap,
                                                             .seed = seed,
                                                             .vocab_size = vocab_size,
                                                             .vocab = vocab});
}

std::unique_ptr<NgramTable> load_table(const std::string& path, int64_t vocab_size,
                                       const std::optional<std::string>& vocab) {
  const py::gil_scoped_release nogil;
  return std::make_unique<NgramTable>(
      NgramTable::load(path, vocab_size, vocab ? &*vocab : nullptr));
}

using Bytes = py::array_t<uint8_t, py::array::c_style>;

Bytes image(const NgramTable& table) {
  Bytes bytes(table.store().bytes());
  void* const data = bytes.mutable_data();
  const py::gil_scoped_release nogil;
  table.copy_to(data);
  return bytes;
}

std::unique_ptr<NgramTable> from_image(Bytes& bytes) {
  void* const data = bytes.mutable_data();
  const int64_t size = bytes.size();
  const py::gil_scoped_release nogil;
  return std::make_unique<NgramTable>(NgramTable::from_image(data, size, false));
}

void update(NgramTable& table, const Int32& tails, const std::optional<Int32>& lens,
            const Int32& ids, const Float32& probs) {
  const Array lengths = lens ? view(*lens) : Array{};
  const Array rows = view(tails), tokens = view(ids), weights = view(probs);
  const py::gil_scoped_release nogil;
  const Contexts contexts = drafting::check_contexts("update", table, rows, lengths, 0);
  table.update(contexts, drafting::check_followers(table, tokens, weights, contexts.rows), pool);
}

void observe_tokens(NgramTable& table, const Int32& tokens, int64_t start) {
  const Array text = view(tokens);
  const py::gil_scoped_release nogil;
  const Contexts contexts = drafting::check_tokens(table, text, start);
  table.update(contexts, {.ids = contexts.tails + 1}, pool);
}

// One number for all sequences, or one each.
using Numbers = std::variant<int64_t, Int64>;

std::vector<int64_t> one_each(const char* name, const Numbers& numbers, int64_t batch) {
  if (const int64_t* number = std::get_if<int64_t>(&numbers)) {
    return std::vector<int64_t>(size_t(batch), *number);
  }
  const Int64& array = std::get<Int64>(numbers);
  THRIFTY_CHECK(array.ndim() == 1 && array.size() == batch, "draft: ", name, ": expected ", batch,
                " numbers, got ", shape_text(view(array)));
  return std::vector<int64_t>(array.data(), array.data() + batch);
}

// tails, lens: int32, contiguous (_ngram_table.py); a caster of such arrays would convert them
// anew.
py::tuple draft(const NgramTable& table, const py::array& tails,
                const std::optional<py::array>& lens, const DraftTemplate& shape, bool sample,
                float inv_temp, const Numbers& seed, const Numbers& offset,
                const std::vector<NgramTable*>& first) {
  const Contexts contexts =
      drafting::check_contexts("draft", table, view(tails), lens ? view(*lens) : Array{}, 1);
  const int64_t batch = contexts.rows, nodes = shape.size(), k = table.k();
  THRIFTY_CHECK(inv_temp > 0 && inv_temp < 1e6f, "draft: inv_temp: expected a positive number, ",
                "got ", inv_temp);
  const std::vector<int64_t> seeds = one_each("seed", seed, batch),
                             offsets = one_each("offset", offset, batch);
  THRIFTY_CHECK(first.empty() || int64_t(first.size()) == batch, "draft: first: expected ", batch,
                " tables, got ", first.size());
  for (const NgramTable* other : first) {
    if (other != nullptr) drafting::check_same_kind("draft", table, *other);
  }
  const int64_t words = shape.words();
  Arena arena(6 * Arena::bytes_of<int32_t>(batch * nodes) + Arena::bytes_of<int32_t>(batch) +
              Arena::bytes_of<int64_t>(batch * nodes * words) +
              2 * Arena::bytes_of<float>(batch * nodes * k));
  py::array_t<int32_t> links[6];
  for (auto& array : links) array = arena.array<int32_t>({batch, nodes});
  auto ancestors = arena.array<int64_t>({batch, nodes, words});
  auto sizes = arena.array<int32_t>({batch}), q_ids = arena.array<int32_t>({batch, nodes, k});
  auto q = arena.array<float>({batch, nodes, k});
  const drafting::DraftArrays out{.tokens = links[0].mutable_data(),
                                  .parents = links[1].mutable_data(),
                                  .first_child = links[2].mutable_data(),
                                  .next_sibling = links[3].mutable_data(),
                                  .depths = links[4].mutable_data(),
                                  .slots = links[5].mutable_data(),
                                  .ancestors = ancestors.mutable_data(),
                                  .sizes = sizes.mutable_data(),
                                  .q_ids = q_ids.mutable_data(),
                                  .q = q.mutable_data()};
  const drafting::DraftSettings settings{
      .sample = sample, .inv_temp = inv_temp, .seeds = seeds.data(), .offsets = offsets.data()};
  {
    const py::gil_scoped_release nogil;
    table.draft(contexts, shape, first, settings, out, pool);
  }
  return py::make_tuple(links[0], links[1], links[2], links[3], links[4], links[5], ancestors,
                        sizes, q_ids, q);
}

py::tuple probabilities(const NgramTable& table, const Int32& tails,
                        const std::optional<Int32>& lens, const Int32& ids) {
  const Contexts contexts = drafting::check_contexts("probabilities", table, view(tails),
                                                     lens ? view(*lens) : Array{}, 0);
  THRIFTY_CHECK(ids.ndim() == 2 && ids.shape(0) == contexts.rows, "probabilities: ids: expected (",
                contexts.rows, ", M), got ", shape_text(view(ids)));
  const int64_t orders = table.n_max() - table.n_min() + 1, width = ids.shape(1);
  Float32 probs({contexts.rows, orders, width});
  Int32 counts({contexts.rows, orders});
  float* probs_out = probs.mutable_data();
  int32_t* counts_out = counts.mutable_data();
  {
    const py::gil_scoped_release nogil;
    table.probabilities(contexts, ids.data(), width, probs_out, counts_out, pool);
  }
  return py::make_tuple(probs, counts);
}

void merge(NgramTable& table, const NgramTable& other) {
  drafting::check_same_kind("merge", table, other);
  const py::gil_scoped_release nogil;
  table.merge(other);
}

py::dict stats(const NgramTable& table) {
  drafting::NgramHeader& h = table.store().header();
  const auto now = [](uint64_t& counter) {
    return std::atomic_ref<uint64_t>(counter).load(std::memory_order_relaxed);
  };
  using namespace py::literals;
  const uint64_t used = now(h.used);
  return py::dict("capacity"_a = h.capacity, "used"_a = used,
                  "bytes"_a = int64_t(used) * table.store().slot_bytes(),
                  "bytes_reserved"_a = table.store().bytes(), "updates"_a = now(h.updates),
                  "evictions"_a = now(h.evictions), "lookups"_a = now(h.lookups),
                  "hits"_a = now(h.hits));
}

std::string vocab(const NgramTable& table) {
  const drafting::NgramHeader& h = table.header();
  return {h.vocab, strnlen(h.vocab, sizeof h.vocab)};
}

// Failures of the file system as OSError with its number.
void translate_system_error(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const std::system_error& error) {
    py::set_error(PyExc_OSError, py::make_tuple(error.code().value(), error.what()));
  }
}

}  // namespace

void bind_drafting(py::module_& m) {
  py::register_local_exception_translator(&translate_system_error);
  const auto copy = [](const std::vector<int32_t>& values) {
    return Int32(py::ssize_t(values.size()), values.data());
  };
  py::class_<DraftTemplate>(m, "DraftTemplate")
      .def(py::init([](const Int32& parents) {
        return std::make_unique<DraftTemplate>(parents.data(), parents.size());
      }))
      .def_property_readonly("child_begin",
                             [copy](const DraftTemplate& t) { return copy(t.child_begin); })
      .def_property_readonly("child_count",
                             [copy](const DraftTemplate& t) { return copy(t.child_count); });
  py::class_<NgramTable>(m, "NgramTable")
      .def(py::init(&make_table), py::arg("capacity"), py::arg("k"), py::arg("n_min"),
           py::arg("n_max"), py::arg("count_cap"), py::arg("seed"), py::arg("vocab_size"),
           py::arg("vocab"))
      .def_static("load", &load_table, py::arg("path"), py::arg("vocab_size"), py::arg("vocab"))
      .def("image", &image)
      .def_static("from_image", &from_image, py::arg("image"))
      .def("update", &update, py::arg("tails"), py::arg("lens"), py::arg("ids"), py::arg("probs"))
      .def("observe_tokens", &observe_tokens, py::arg("tokens"), py::arg("start"))
      .def("draft", &draft, py::arg("tails"), py::arg("lens"), py::arg("tree"), py::arg("sample"),
           py::arg("inv_temp"), py::arg("seed"), py::arg("offset"), py::arg("first"))
      .def("probabilities", &probabilities, py::arg("tails"), py::arg("lens"), py::arg("ids"))
      .def("merge", &merge, py::arg("other"))
      .def("clear", &NgramTable::clear, py::call_guard<py::gil_scoped_release>())
      .def("save", &NgramTable::save, py::arg("path"), py::call_guard<py::gil_scoped_release>())
      .def("stats", &stats)
      .def_property_readonly("k", &NgramTable::k)
      .def_property_readonly("n_min", &NgramTable::n_min)
      .def_property_readonly("n_max", &NgramTable::n_max)
      .def_property_readonly("capacity", [](const NgramTable& t) { return t.header().capacity; })
      .def_property_readonly("vocab_size",
                             [](const NgramTable& t) { return t.header().vocab_size; })
      .def_property_readonly("vocab", &vocab);
}

}  // namespace thrifty::python
