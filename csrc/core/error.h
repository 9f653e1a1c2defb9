// The one way to refuse an argument: ValueError("op: argument: expected ..., got ...").
//
// std::invalid_argument becomes Python's ValueError both through the dispatcher and through
// pybind11, with its text unchanged. Checks run at the edges before anything is allocated; kernels
// assume.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace thrifty {

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw std::invalid_argument(concat(parts...));
}

}  // namespace thrifty

// THRIFTY_CHECK(p < 1, op, ": dropout: expected a number in [0, 1), got ", p)
#define THRIFTY_CHECK(condition, ...) \
  do {                                \
    if (!(condition)) [[unlikely]]    \
      ::thrifty::fail(__VA_ARGS__);   \
  } while (false)
