"""Run where torch is not installed: the NumPy face imports and computes a layer."""

import importlib.util

import numpy as np

import thrifty
import thrifty.numpy

assert importlib.util.find_spec("torch") is None, "torch is installed here: nothing would be proved"

rng = np.random.default_rng(0)
x, weight = rng.standard_normal((5, 7)), rng.standard_normal((3, 7))
r, s, bias = (rng.standard_normal(shape) for shape in [(2, 7), (2, 3), (2, 3)])
out = thrifty.numpy.batch_ensemble_linear(x, weight, r, s, bias, "relu")
wanted = np.maximum(((x[:, None] * r) @ weight.T) * s + bias, 0)
np.testing.assert_allclose(out, wanted, rtol=1e-12)
print(f"thrifty.numpy without torch: agrees with NumPy, {out.shape}")
