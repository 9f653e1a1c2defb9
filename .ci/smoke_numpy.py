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

q, k, v = rng.standard_normal((3, 1, 2, 300, 16))
weight = np.exp(q @ k.swapaxes(-1, -2) / 4)
exact = weight @ v / weight.sum(-1, keepdims=True)
np.testing.assert_allclose(thrifty.numpy.hyper_attention(q, k, v), exact, rtol=1e-10)
near = thrifty.numpy.hyper_attention(q, k, v, mode="paper", min_len=0, window=100)
assert abs(near - exact).max() < 2  # NaN is not
print(f"thrifty.numpy without torch: agrees with NumPy, {out.shape}")
