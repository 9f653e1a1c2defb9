"""Packed weights that are kept between inference calls, and thrown away when weights change.

A pack is valid for the very same storage (address, version counter, dtype, device). The version
counter sees optimisers, `copy_` and `load_state_dict`, but neither edits through `.data` nor fused
optimisers (`fused=True` leaves it alone), so a pack also remembers some hundred spread entries of
the weight and is dropped when one differs (about 1 us a layer), and a backbone clears its packs
whenever it runs with gradients enabled, changes mode, or moves.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..ensemble import pack_weight


class _Entry(NamedTuple):
    version: int
    alias: Tensor  # shares the weight's storage and so keeps its address from being reused
    probe: Tensor  # a strided view of alias
    probed: Tensor  # what probe held when the weight was packed
    cast: Tensor
    packed: Tensor


class PackedWeights:
    """The packs of one network's weights. Copies and pickles of it are empty."""

    def __init__(self) -> None:
        self._entries: tuple[_Entry, ...] = ()

    def __deepcopy__(self, memo: dict) -> PackedWeights:
        return PackedWeights()

    def __reduce__(self) -> tuple:
        return PackedWeights, ()

    def clear(self) -> None:
        """Forget all packs."""
        self._entries = ()

    def get(self, weights: list[Tensor], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """The weights in `dtype`, and their packs: from the last call where still valid.

        Packs are empty where nothing can be kept: under tracing, and for weights that were made in
        inference mode, which have no version counter.
        """
        if not _can_keep(weights):
            return [w.to(dtype) for w in weights], []
        entries = self._entries
        if len(entries) != len(weights):
            entries = tuple(_make(w, dtype) for w in weights)
        elif not all(_valid(e, w, dtype) for e, w in zip(entries, weights, strict=True)):
            entries = tuple(
                e if _valid(e, w, dtype) else _make(w, dtype)
                for e, w in zip(entries, weights, strict=True)
            )
        self._entries = entries
        return [e.cast for e in entries], [e.packed for e in entries]


def _can_keep(weights: list[Tensor]) -> bool:
    if torch.compiler.is_compiling():
        return False
    for w in weights:
        if type(w) not in (Tensor, torch.nn.Parameter) or w.device.type != "cpu":
            return False
        try:
            w.data_ptr(), w._version
        except RuntimeError:  # a tensor of inference mode has no version, one of vmap no address
            return False
    return True


def _make(weight: Tensor, dtype: torch.dtype) -> _Entry:
    alias = weight.detach()
    rows, columns = alias.shape
    probe = alias[:: max(1, rows // 16), :: max(1, columns // 16)]
    cast = alias.to(dtype)
    return _Entry(weight._version, alias, probe, probe.clone(), cast, pack_weight(cast))


def _valid(entry: _Entry, weight: Tensor, dtype: torch.dtype) -> bool:
    return (
        entry.alias.data_ptr() == weight.data_ptr()
        and entry.version == weight._version
        and entry.alias.dtype == weight.dtype
        and entry.alias.shape == weight.shape
        and entry.alias.stride() == weight.stride()
        and entry.cast.dtype == dtype
        and torch.equal(entry.probe, entry.probed)
    )
