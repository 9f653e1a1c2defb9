"""TensorNgramTable: an n-gram table in a tensor's memory, for a loop that stays on the GPU."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from thrifty import _drafting_ops, _native
from thrifty._draft_tree import Draft, DraftTree
from thrifty._ngram_table import MODES, NgramTable, default_tree


def _numbers(value: Any, count: int, device: torch.device) -> Tensor:
    if isinstance(value, int):
        return torch.full((count,), value, dtype=torch.int64, device=device)
    return torch.as_tensor(value, device=device).to(torch.int64)


class TensorNgramTable:
    """An `NgramTable` whose memory is a tensor; made by `NgramTable.to(device)`.

    Learns and drafts as the table that it was made from, by the same rules and random numbers. On
    CUDA `update` and `draft` are kernels on the current stream that never wait for the device, so
    a decoding step (`draft`, the model, `verify_tree`, `update` with its topk_ids and topk_probs)
    stays there and may be captured in a CUDA graph, once each tree has been drafted on the device.

    Attributes:
        region: uint8, the table's memory: header, keys, slots. It can be copied, sent and saved as
            any tensor, by one thread at a time. Drafts only read it and count no look-ups.

    Example::

        >>> table = thrifty.NgramTable(1 << 10, n_max=3).to("cpu")  # or "cuda"
        >>> tails = torch.tensor([[5, 6, 7]], dtype=torch.int32)
        >>> table.update(tails, ids=torch.tensor([[8, 9]]), probs=torch.tensor([[0.75, 0.25]]))
        >>> draft = table.draft(tails, tree=thrifty.DraftTree.chain(1), seed=1)
        >>> draft.q[0, 0, :2].tolist(), table.cpu().stats()["used"]
        ([0.75, 0.25], 3)
    """

    def __init__(self, table: NgramTable, device: torch.device | str) -> None:
        image = table._native.image()
        self.region = torch.from_numpy(image).to(device)
        header = image[:4096].view(np.int64)
        # capacity, k, n_min, n_max, count_cap, seed: ngram_store.h's NgramHeader.
        self._options = tuple(int(value) for value in header[4:10])
        self.capacity, self.k, self.n_min, self.n_max, self.count_cap, self.seed = self._options

    @property
    def device(self) -> torch.device:
        return self.region.device

    def update(self, tails: Tensor, lens: Tensor | None = None, *, ids: Tensor, probs: Tensor) -> None:  # noqa: E501  # fmt: skip
        """`NgramTable.update` with tensors of this device.

        Values are checked on the CPU alone. On CUDA a length is cut to what there is, an id below 0
        ends a row, and a number that is no probability adds nothing or at most 1.

        Raises:
            ValueError: shapes or dtypes that do not fit, another device.
        """
        _drafting_ops.ops.ngram_update_(
            self.region, *self._options, tails.to(torch.int32), lens,
            ids.to(torch.int32), probs.to(torch.float32),
        )  # fmt: skip

    def draft(
        self,
        tails: Tensor,
        lens: Tensor | None = None,
        tree: DraftTree | None = None,
        mode: str = "sample",
        inv_temp: float = 1.0,
        seed: Any = 0,
        offset: Any = 0,
    ) -> Draft:
        """`NgramTable.draft` with tensors of this device: a `Draft` of tensors.

        On CUDA a sequence whose len is below 1 gets no nodes.

        Raises:
            ValueError: shapes, dtypes or settings that do not fit, another device.
        """
        if mode not in MODES:
            raise ValueError(f"draft: mode: expected one of {MODES}, got {mode!r}")
        tree = tree or default_tree()
        begin, count = _template(tree, self.device)
        rows = len(tails)
        tensors = _drafting_ops.ops.ngram_draft(
            self.region, *self._options, tails.to(torch.int32), lens, begin, count,
            mode == "sample", inv_temp, _numbers(seed, rows, self.device),
            _numbers(offset, rows, self.device),
        )  # fmt: skip
        return Draft(*tensors, tree.max_depth, mode == "sample")  # type: ignore[call-arg]

    def cpu(self) -> NgramTable:
        """A table on the CPU with what this one has learnt; waits for the device."""
        table = NgramTable.__new__(NgramTable)
        table._native = _native.NgramTable.from_image(self.region.cpu().numpy())
        return table

    def __repr__(self) -> str:
        return (
            f"TensorNgramTable({self.capacity} slots, k={self.k}, n={self.n_min}..{self.n_max}, "
            f"{self.device})"
        )


def _template(tree: DraftTree, device: torch.device) -> tuple[Tensor, Tensor]:
    """The tree as the ops read it, kept with the tree: a copy to the device would wait."""
    kept = tree.__dict__.setdefault("_templates", {})
    if device not in kept:
        native = tree.native
        kept[device] = tuple(
            torch.from_numpy(array).to(device) for array in (native.child_begin, native.child_count)
        )
    return kept[device]
