"""Cases of the sampling family: masks and exact draws (`sampling_masks`)."""

import torch

from bench import sampling_masks
from bench.harness import Case


def cases(device: torch.device) -> list[Case]:
    return sampling_masks.cases()


BARS = sampling_masks.BARS
