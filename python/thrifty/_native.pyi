"""The pybind11 module built from csrc/python."""

from collections.abc import Callable, Sequence

import numpy as np

def cpu_isa() -> str:
    """The instruction set in use: "baseline", "avx2", "avx512" or "amx"."""

def set_num_threads(threads: int) -> None: ...
def get_num_threads() -> int: ...
def batch_ensemble_linear(
    x: np.ndarray,
    weight: np.ndarray,
    r: np.ndarray | None,
    s: np.ndarray | None,
    bias: np.ndarray | None,
    r_next: np.ndarray | None,
    activation: str,
    dropout: float,
    seed: tuple[int, int] | None,
    k: int,
    group: int,
) -> np.ndarray: ...
def ensemble_linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    activation: str,
    dropout: float,
    seed: tuple[int, int] | None,
) -> np.ndarray: ...
def batch_ensemble_mlp(
    x: np.ndarray,
    weight: Sequence[np.ndarray],
    r: Sequence[np.ndarray | None],
    s: Sequence[np.ndarray | None],
    bias: Sequence[np.ndarray | None],
    head_weight: np.ndarray | None,
    head_bias: np.ndarray | None,
    activation: str,
    reduce: str,
) -> np.ndarray: ...

class DraftTemplate:
    def __init__(self, parents: np.ndarray) -> None: ...
    @property
    def child_begin(self) -> np.ndarray: ...
    @property
    def child_count(self) -> np.ndarray: ...

class NgramTable:
    def __init__(
        self,
        capacity: int,
        k: int,
        n_min: int,
        n_max: int,
        count_cap: int,
        seed: int,
        vocab_size: int,
        vocab: str,
    ) -> None: ...
    @staticmethod
    def load(path: str, vocab_size: int, vocab: str | None) -> NgramTable: ...
    @staticmethod
    def from_image(image: np.ndarray) -> NgramTable: ...
    def image(self) -> np.ndarray: ...
    def update(
        self, tails: np.ndarray, lens: np.ndarray | None, ids: np.ndarray, probs: np.ndarray
    ) -> None: ...
    def observe_tokens(self, tokens: np.ndarray, start: int) -> None: ...
    def draft(
        self,
        tails: np.ndarray,
        lens: np.ndarray | None,
        tree: DraftTemplate,
        sample: bool,
        inv_temp: float,
        seed: int | np.ndarray,
        offset: int | np.ndarray,
        first: Sequence[NgramTable | None],
    ) -> tuple[np.ndarray, ...]: ...
    def probabilities(
        self, tails: np.ndarray, lens: np.ndarray | None, ids: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]: ...
    def merge(self, other: NgramTable) -> None: ...
    def clear(self) -> None: ...
    def save(self, path: str) -> None: ...
    def stats(self) -> dict[str, int]: ...
    @property
    def k(self) -> int: ...
    @property
    def n_min(self) -> int: ...
    @property
    def n_max(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def vocab(self) -> str: ...

def row_stats(
    logits: np.ndarray,
    exclude: np.ndarray | None,
    settings: Sequence[np.ndarray | None],
    k: int,
) -> tuple[np.ndarray, ...]: ...
def verify_tree(
    logits: np.ndarray,
    draft: Sequence[np.ndarray],
    settings: Sequence[np.ndarray | None],
    rule: str,
    max_depth: int,
    k: int,
    all_rows: bool,
) -> tuple[np.ndarray, ...]: ...
def verify_chain(
    logits: np.ndarray,
    tokens: np.ndarray,
    lens: np.ndarray | None,
    q_ids: np.ndarray | None,
    q: np.ndarray | None,
    settings: Sequence[np.ndarray | None],
    method: str,
    k: int,
) -> tuple[np.ndarray, ...]: ...
def apply_token_bitmask_(
    logits: np.ndarray,
    bitmask: np.ndarray,
    indices: np.ndarray | None,
    row_map: np.ndarray | None,
    vocab_size: int | None,
) -> None: ...
def masked_sample(
    logits: np.ndarray,
    bitmask: np.ndarray | None,
    mask_rows: np.ndarray | None,
    inv_temperature: np.ndarray | None,
    top_k: np.ndarray | None,
    top_p: np.ndarray | None,
    min_p: np.ndarray | None,
    top_n_sigma: np.ndarray | None,
    top_h: np.ndarray | None,
    top_h_variant: str,
    threshold: np.ndarray | None,
    seeds: np.ndarray,
    offsets: np.ndarray,
    fallback_token: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
def filter_threshold(
    logits: np.ndarray,
    bitmask: np.ndarray | None,
    mask_rows: np.ndarray | None,
    inv_temperature: np.ndarray | None,
    top_k: np.ndarray | None,
    top_p: np.ndarray | None,
    min_p: np.ndarray | None,
    top_n_sigma: np.ndarray | None,
    top_h: np.ndarray | None,
    top_h_variant: str,
) -> tuple[np.ndarray, np.ndarray]: ...
def sample_candidates(
    logits: np.ndarray,
    k: int,
    bitmask: np.ndarray | None,
    mask_rows: np.ndarray | None,
    inv_temperature: np.ndarray | None,
    drawn: np.ndarray | None,
    seeds: np.ndarray,
    offsets: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
def awrs_weights(
    allowed: np.ndarray,
    logp: np.ndarray,
    log_rest: np.ndarray,
    log_tail: np.ndarray,
    coins: np.ndarray | None,
    estimator: str,
    extra: int,
    budget: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
def awrs_sample_dfa(
    logits: np.ndarray,
    next: np.ndarray,
    accepting: np.ndarray,
    tok_offsets: np.ndarray,
    tok_bytes: np.ndarray,
    eos_ids: np.ndarray,
    state: np.ndarray,
    inv_temperature: np.ndarray | None,
    seeds: np.ndarray,
    offsets: np.ndarray,
    estimator: str,
    extra: int,
    budget: int,
    fallback_token: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
def smc_resample(
    logw: np.ndarray,
    seeds: np.ndarray,
    offsets: np.ndarray,
    method: str,
    ess_threshold: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
def byte_dfa(
    states: int,
    accept: int,
    bytes: np.ndarray,
    glue: np.ndarray,
    max_states: int,
) -> tuple[np.ndarray, np.ndarray]: ...
def byte_dfa_step(
    next: np.ndarray,
    accepting: np.ndarray,
    tok_offsets: np.ndarray,
    tok_bytes: np.ndarray,
    eos_ids: np.ndarray,
    state: int,
    ids: np.ndarray,
) -> np.ndarray: ...
def byte_dfa_bitmask(
    next: np.ndarray,
    accepting: np.ndarray,
    tok_offsets: np.ndarray,
    tok_bytes: np.ndarray,
    eos_ids: np.ndarray,
    states: np.ndarray,
) -> np.ndarray: ...
def awrs_sample(
    logits: np.ndarray,
    bfloat16: bool,
    check: Callable[[int, list[int]], Sequence[bool]],
    estimator: str,
    extra: int,
    budget: int,
    lookahead: int,
    inv_temperature: np.ndarray | None,
    seeds: np.ndarray,
    offsets: np.ndarray,
    fallback_token: int,
    threads: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
def moe_route(
    logits: np.ndarray,
    top_k: int,
    score: str,
    renorm: bool,
    scale: float,
    bias: np.ndarray | None,
    expert_mask: np.ndarray | None,
    n_group: int,
    topk_group: int,
    group_topn: int,
) -> tuple[np.ndarray, np.ndarray]: ...
def moe_permute(
    ids: np.ndarray,
    num_experts: int,
    expert_map: np.ndarray | None,
    capacity: int,
    priority: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
def grouped_mm(
    a: np.ndarray,
    b: np.ndarray,
    offs: np.ndarray,
    a_idx: np.ndarray | None,
    bias: np.ndarray | None,
    row_scale: np.ndarray | None,
    accumulate: np.ndarray | None,
) -> np.ndarray: ...
def moe_mlp(
    x: np.ndarray,
    w1: np.ndarray,
    w2: np.ndarray,
    ids: np.ndarray,
    weights: np.ndarray,
    b1: np.ndarray | None,
    b2: np.ndarray | None,
    activation: str,
    transposed: bool,
    interleaved: bool,
    alpha: float,
    limit: float,
    expert_map: np.ndarray | None,
) -> np.ndarray: ...
def token_topk(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]: ...
def gather_rows(x: np.ndarray, index: np.ndarray, weights: np.ndarray | None) -> np.ndarray: ...
def scatter_add_rows(
    x: np.ndarray, index: np.ndarray, src: np.ndarray, weights: np.ndarray | None
) -> np.ndarray: ...

class ExpertCache:
    hits: int
    misses: int
    def __init__(self, experts: int, slots: int, policy: str) -> None: ...
    def plan(self, ids: np.ndarray, now: int, stop: int) -> np.ndarray: ...
    def batch(
        self, ids: np.ndarray, most: int, waited: np.ndarray | None, max_age: int
    ) -> np.ndarray: ...
    def expert_of_slot(self) -> np.ndarray: ...
    def slot_of_expert(self) -> np.ndarray: ...

def lsh_bucket(x: np.ndarray, planes: np.ndarray, mean: np.ndarray | None) -> np.ndarray: ...
def centroid_bucket(
    x: np.ndarray, centroids: np.ndarray, mean: np.ndarray | None
) -> np.ndarray: ...
def bucket_sort(ids: np.ndarray, buckets: int) -> tuple[np.ndarray, np.ndarray]: ...
def hyper_core(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    q_order: np.ndarray,
    q_offsets: np.ndarray,
    k_order: np.ndarray,
    windows: np.ndarray,
    list_k: np.ndarray | None,
    list_v: np.ndarray | None,
    list_logw: np.ndarray | None,
    list_range: np.ndarray | None,
    list_var: np.ndarray | None,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]: ...
def hyper_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    cu_seqlens: np.ndarray | None,
    mode: str,
    causal: bool,
    center: bool,
    num_buckets: int,
    window: int,
    residual: int,
    keep: int,
    leaf: int,
    planes: int,
    seed: np.ndarray,
    scale: float,
) -> tuple[np.ndarray, np.ndarray]: ...
