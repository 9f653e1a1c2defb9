"""The drafting family's cases."""

from thrifty.reference.cases import OpCase

CASES: list[OpCase] = []
