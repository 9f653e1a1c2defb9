"""A toy family: sums of a small vector, so that the harness itself is what a test times."""

import time

import torch

from bench.harness import Case

VALUES = torch.arange(1.0, 9.0)


def total(state):
    return lambda: state.sum()


def wrong_total(state):
    return lambda: state.sum() + 1.0


def case(op="toy", dtype="fp32", size=8, **changes) -> Case:
    settings = {
        "op": op,
        "dims": {"n": size},
        "dtype": dtype,
        "setup": lambda device: VALUES.clone(),
        "impls": {"thrifty": total, "eager": total},
        "oracle": lambda state: state.double().sum(),
        "bytes": 1e6,
        "flops": 2e6,
        "size": "n",
    }
    return Case(**(settings | changes))


def sleeping(seconds: float):
    """An implementation of known duration."""

    def factory(state):
        def call():
            time.sleep(seconds)
            return state.sum()

        return call

    return factory
