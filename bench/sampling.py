"""Cases of the sampling family: masks and exact draws (`sampling_masks`), adaptive
weighted rejection sampling (`sampling_awrs`)."""

import torch

from bench import sampling_awrs, sampling_masks
from bench.harness import Case


def cases(device: torch.device) -> list[Case]:
    return [*sampling_masks.cases(gpu=device.type == "cuda"), *sampling_awrs.cases()]


BARS = [*sampling_masks.BARS, *sampling_awrs.BARS]
