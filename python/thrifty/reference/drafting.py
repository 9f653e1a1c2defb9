"""Definitions of the drafting family in plain Python and torch, to be read and compared with."""
