"""Cases of the sampling family."""

from thrifty.reference import awrs_cases

CASES = [*awrs_cases.CASES]
