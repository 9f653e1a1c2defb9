// The tiles of float32 and float64, by the larger of D and Dv: forward's and backward's.
#pragma once

#include "attention/core_tile.cuh"

namespace thrifty::attention::cuda {

using FloatNarrow = SimtTile<float, 64, 64, 64>;
using FloatMiddle = SimtTile<float, 64, 64, 128>;
using FloatWide = SimtTile<float, 32, 32, 256>;
using Double = SimtTile<double, 16, 16, 256>;

}  // namespace thrifty::attention::cuda
