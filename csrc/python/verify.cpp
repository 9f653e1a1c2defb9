// Verification of drafts on NumPy arrays: the same core functions as torch.ops.thrifty.
#include "drafting/verify.h"

#include "python/numpy_edge.h"

namespace thrifty::python {
namespace {

using drafting::VerifyOut;

// The settings of rows: temperature, top_k, top_p, min_p, seed, offset.
struct Settings {
  explicit Settings(const std::vector<OptionalArray>& given) {
    for (const OptionalArray& array : given) arrays.push_back(dense(array));
  }
  drafting::SettingArgs args() const {
    return {view(arrays.at(0)), view(arrays.at(1)), view(arrays.at(2)),
            view(arrays.at(3)), view(arrays.at(4)), view(arrays.at(5))};
  }
  std::vector<OptionalArray> arrays;
};

using Shape = std::vector<py::ssize_t>;

py::tuple row_stats(const py::array& logits_, const OptionalArray& exclude_,
                    const std::vector<OptionalArray>& settings_, int64_t k) {
  const py::array logits = dense(logits_);
  const OptionalArray exclude = dense(exclude_);
  const Settings settings(settings_);
  const drafting::RowStats call = drafting::check_row_stats(
      {.logits = view(logits), .exclude = view(exclude), .settings = settings.args(), .k = k});
  const int64_t rows = call.logits.rows;
  py::array_t<float> lse(rows), probs(Shape{rows, k});
  py::array_t<int32_t> ids(Shape{rows, k}), draw(rows), status(rows);
  const drafting::RowStatsOut out{.lse = lse.mutable_data(),
                                  .topk_ids = ids.mutable_data(),
                                  .topk_probs = probs.mutable_data(),
                                  .draw = draw.mutable_data(),
                                  .status = status.mutable_data()};
  {
    const py::gil_scoped_release nogil;
    drafting::row_stats(call, out, pool);
    drafting::raise_status("row_stats", out.status, rows);
  }
  return py::make_tuple(lse, ids, probs, draw, status);
}

template <class Call, class Run>
py::tuple verified(const char* op, const Call& call, int64_t width, int64_t rows, const Run& run) {
  const int64_t batch = call.logits.batch, k = call.k;
  py::array_t<int32_t> tokens(Shape{batch, width}), path(Shape{batch, width}), lengths(batch),
      status(batch), ids(Shape{batch, rows, k});
  py::array_t<float> probs(Shape{batch, rows, k});
  const VerifyOut out{.tokens = tokens.mutable_data(),
                      .lengths = lengths.mutable_data(),
                      .path = path.mutable_data(),
                      .topk_ids = ids.mutable_data(),
                      .topk_probs = probs.mutable_data(),
                      .status = status.mutable_data()};
  {
    const py::gil_scoped_release nogil;
    run(call, out, pool);
    drafting::raise_status(op, out.status, batch);
  }
  return py::make_tuple(tokens, lengths, path, ids, probs, status);
}

py::tuple verify_tree(const py::array& logits_, const std::vector<py::array>& draft_,
                      const std::vector<OptionalArray>& settings_, const std::string& rule,
                      int64_t max_depth, int64_t k, bool all_rows) {
  const py::array logits = dense(logits_);
  std::vector<py::array> draft;  // tokens, first_child, next_sibling, q_ids, q
  for (const py::array& array : draft_) draft.push_back(dense(array));
  const Settings settings(settings_);
  const auto call = drafting::check_verify_tree({.logits = view(logits),
                                                 .tokens = view(draft.at(0)),
                                                 .first_child = view(draft.at(1)),
                                                 .next_sibling = view(draft.at(2)),
                                                 .q_ids = view(draft.at(3)),
                                                 .q = view(draft.at(4)),
                                                 .settings = settings.args(),
                                                 .rule = rule,
                                                 .max_depth = max_depth,
                                                 .k = k,
                                                 .all_rows = all_rows});
  const int64_t width = max_depth + 1;
  return verified("verify_tree", call, width, all_rows ? call.logits.rows : width,
                  drafting::verify_tree);
}

py::tuple verify_chain(const py::array& logits_, const py::array& tokens_,
                       const OptionalArray& lens_, const OptionalArray& q_ids_,
                       const OptionalArray& q_, const std::vector<OptionalArray>& settings_,
                       const std::string& method, int64_t k) {
  const py::array logits = dense(logits_), tokens = dense(tokens_);
  const OptionalArray lens = dense(lens_), q_ids = dense(q_ids_), q = dense(q_);
  const Settings settings(settings_);
  const auto call = drafting::check_verify_chain({.logits = view(logits),
                                                  .tokens = view(tokens),
                                                  .lens = view(lens),
                                                  .q_ids = view(q_ids),
                                                  .q = view(q),
                                                  .settings = settings.args(),
                                                  .method = method,
                                                  .k = k});
  const int64_t width = call.length + 1;
  return verified("verify_chain", call, width, width, drafting::verify_chain);
}

}  // namespace

void bind_verify(py::module_& m) {
  m.def("row_stats", &row_stats, py::arg("logits"), py::arg("exclude"), py::arg("settings"),
        py::arg("k"));
  m.def("verify_tree", &verify_tree, py::arg("logits"), py::arg("draft"), py::arg("settings"),
        py::arg("rule"), py::arg("max_depth"), py::arg("k"), py::arg("all_rows"));
  m.def("verify_chain", &verify_chain, py::arg("logits"), py::arg("tokens"), py::arg("lens"),
        py::arg("q_ids"), py::arg("q"), py::arg("settings"), py::arg("method"), py::arg("k"));
}

}  // namespace thrifty::python
