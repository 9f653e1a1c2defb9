"""Tokens that a router takes out of their sequences, and puts back: Mixture-of-Recursions."""

from torch import Tensor

from thrifty import _moe_ops
from thrifty._arguments import named


@named
def token_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k tokens with the largest scores in each sequence, in the order of the sequence.

    Args:
        scores: (..., S) floating, S < 2^31 - 1: one score per token.
        k: 0 to S.

    Returns:
        weights: (..., k), the scores at `index`.
        index: (..., k) int64, rising, so that attention among the chosen stays causal.

    Ties go to the lower index; a NaN ranks below every number. O(S). Differentiable with respect to
    scores, through the weights, any number of times.

    Raises:
        ValueError: shapes, dtypes or a k that do not fit.

    Example::

        >>> weights, index = thrifty.token_topk(torch.tensor([0.1, 0.9, 0.3, 0.7]), 2)
        >>> index.tolist(), weights.tolist()
        ([1, 3], [0.8999999761581421, 0.699999988079071])

    Reference: Mixture-of-Recursions (expert choice), arXiv 2507.10524, section 2.2.1.
    """
    weights, index = _moe_ops.token_topk(scores, k)
    return weights, index


@named
def gather_rows(x: Tensor, index: Tensor, weights: Tensor | None = None) -> Tensor:
    """Rows of each sequence: ``out[b, j] = weights[b, j] * x[b, index[b, j]]``.

    Args:
        x: (..., S, D) floating.
        index: (..., k), int32 or int64, with the leading sizes of x. One outside [0, S) gives
            zeros.
        weights: (..., k), of x's dtype or float32. None: ones.

    Returns:
        (..., k, D) in x's dtype.

    Differentiable with respect to x and weights, any number of times; gradients of rows that were
    taken twice are summed in float32 (float64), in order. Results do not depend on the number of
    threads.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Example::

        >>> x = torch.arange(6.0).view(1, 3, 2)
        >>> thrifty.gather_rows(x, torch.tensor([[2, -1]])).tolist()
        [[[4.0, 5.0], [0.0, 0.0]]]
    """
    return _moe_ops.gather_rows(x, index, weights)


@named
def scatter_add_rows(
    x: Tensor, index: Tensor, src: Tensor, weights: Tensor | None = None
) -> Tensor:
    """x with rows added: ``out = x``, then ``out[b, index[b, j]] += weights[b, j] * src[b, j]``.

    With `token_topk` and `gather_rows` one step of a recursion is

    ``x = scatter_add_rows(x, index, block(gather_rows(x, index)), weights)``

    Args:
        x: (..., S, D) floating.
        index: (..., k), int32 or int64, with the leading sizes of x. One outside [0, S) adds
            nothing; one that occurs twice adds twice.
        src: (..., k, D), of x's dtype.
        weights: (..., k), of x's dtype or float32. None: ones.

    Returns:
        (..., S, D), new. Sums are taken in float32 (float64) in the order of j and rounded once;
        rows that nothing is added to are copies. One pass over x, no atomics, the same bits for
        every number of threads.

    Differentiable with respect to x, src and weights, any number of times.

    Raises:
        ValueError: shapes or dtypes that do not fit.

    Example::

        >>> x, index, src = torch.zeros(3, 2), torch.tensor([2, 2]), torch.ones(2, 2)
        >>> thrifty.scatter_add_rows(x, index, src, torch.tensor([1.0, 0.5])).tolist()
        [[0.0, 0.0], [0.0, 0.0], [1.5, 1.5]]

    Reference: Mixture-of-Recursions, arXiv 2507.10524, section 2.2.1.
    """
    return _moe_ops.scatter_add_rows(x, index, src, weights)
