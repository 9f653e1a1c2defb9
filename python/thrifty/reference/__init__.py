"""Plain PyTorch definitions of every op, one module per family, and the tables of cases over them.

An op's oracle has the op's public name and arguments and is differentiable. Tests, benchmarks and
`python -m thrifty selfcheck` compare with it in float64. It is written to be read, not to be fast.
"""
