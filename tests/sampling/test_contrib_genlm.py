"""ThriftyAWRS in genlm-control: properly weighted, also where the allowed mass is tiny."""

import asyncio
import math

import pytest
import torch

control = pytest.importorskip("genlm.control.potential.base")

from thrifty.contrib.genlm import ThriftyAWRS  # noqa: E402

LETTERS = [b"a", b"b", b"c", b"d"]


class Model(control.Potential):
    """The same distribution of letters and the end, after every text."""

    def __init__(self, p: list[float]) -> None:
        super().__init__(vocabulary=LETTERS)
        self.logp = dict(zip([*LETTERS, self.eos], map(math.log, p), strict=True))

    async def prefix(self, context: list) -> float:
        return sum(self.logp[token] for token in context)

    async def complete(self, context: list) -> float:
        return await self.prefix(context) + self.logp[self.eos]


class Only(control.Potential):
    """Texts of some letters, which may end after the first."""

    def __init__(self, letters: set[bytes]) -> None:
        super().__init__(vocabulary=LETTERS[:3])
        self.letters, self.asked = letters, 0

    async def prefix(self, context: list) -> float:
        self.asked += 1
        return 0.0 if set(context) <= self.letters else -math.inf

    async def complete(self, context: list) -> float:
        self.asked += 1
        return await self.prefix(context) if context else -math.inf


def sample(sampler: ThriftyAWRS, context: list, n: int) -> list[tuple]:
    async def run() -> list[tuple]:
        return [await sampler.sample(context) for _ in range(n)]

    return asyncio.run(run())


@pytest.mark.parametrize("options", [{}, {"estimator": "paper"}, {"extra": 1, "budget": 2}])
def test_properly_weighted(options: dict) -> None:
    p, n = [0.4, 0.05, 0.25, 0.1, 0.2], 4000
    sampler = ThriftyAWRS(Model(p), Only({b"b", b"c"}), seed=3, **options)
    drawn = sample(sampler, [b"b"], n)
    allowed = {b"b": 0.05, b"c": 0.25, sampler.target.eos: 0.2}
    for token, exact in allowed.items():
        weights = torch.tensor([math.exp(w) * (t == token) for t, w, _ in drawn]).double()
        assert abs(weights.mean() - exact) < 6 * weights.std() / math.sqrt(n)
    assert all(t in allowed for t, w, _ in drawn if w > -math.inf)


def test_tiny_mass_keeps_its_particle() -> None:
    p = [1 - 3e-12, 1e-12, 1e-12, 1e-30, 1e-12]
    token, weight, _ = sample(ThriftyAWRS(Model(p), Only({b"b"})), [], 1)[0]
    assert token == b"b"
    assert weight == pytest.approx(math.log(1e-12), abs=1e-5)


def test_draw_is_refused() -> None:
    sampler = ThriftyAWRS(Model([0.2] * 5), Only({b"a"}))
    with pytest.raises(ValueError, match=r"^ThriftyAWRS: draw: expected None"):
        asyncio.run(sampler.sample([], draw=max))
