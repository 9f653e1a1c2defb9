"""`thrifty.debug`: checks that read values, which is too slow for every call."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # thrifty is imported without torch, too
    from torch import Tensor

validating = False


def debug(*, validate: bool) -> None:
    """Turns checks of values on or off, for the whole process; off at first.

    Args:
        validate: `moe_route` refuses logits that are NaN, `moe_mlp` routing weights that are NaN
            and ids that are no expert's, unless their weight is 0 (which is how routing marks a
            choice of nobody). Otherwise a NaN stays in its token and such ids add nothing. The
            errors are ValueErrors that name token, slot (token * K + choice) and value.

    Each check waits for the device. Graphs of torch.compile are not checked.

    Example::

        >>> thrifty.debug(validate=True)
        >>> thrifty.moe_route(torch.tensor([[0.5, torch.nan]]), 1)
        Traceback (most recent call last):
        ValueError: moe_route: logits: expected numbers, got nan (token 0, expert 1)
        >>> thrifty.debug(validate=False)
    """
    global validating
    validating = validate


def _first(bad: "Tensor") -> tuple[int, int] | None:
    """Row and column of the first one."""
    where = bad.nonzero()
    return (int(where[0, 0]), int(where[0, 1])) if len(where) else None


def check_logits(op: str, logits: "Tensor") -> None:
    found = _first(logits.isnan()) if logits.dim() == 2 else None
    if found is not None:
        token, expert = found
        raise ValueError(
            f"{op}: logits: expected numbers, got {logits[found].item()} "
            f"(token {token}, expert {expert})"
        )


def check_routing(op: str, ids: "Tensor", weights: "Tensor", experts: int) -> None:
    """`experts`: how many ids there are, before expert_map."""
    if ids.dim() != 2 or ids.shape != weights.shape:
        return  # the op says it better
    outside = (ids < 0) | (ids >= experts)
    for name, bad, expected, values in (
        ("ids", outside & (weights != 0), f"experts from 0 to {experts - 1}", ids),
        ("weights", weights.isnan(), "numbers", weights),
    ):
        found = _first(bad)
        if found is not None:
            token, choice = found
            slot = token * ids.shape[1] + choice
            raise ValueError(
                f"{op}: {name}: expected {expected}, got {values[found].item()} "
                f"(token {token}, slot {slot})"
            )
