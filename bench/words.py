"""What the ops of the cases do and what a user would run instead, in a newcomer's words.

The summary of a run and the tables of README and docs are written with these. An op that is not
listed is shown by its name, beside the baseline of its cases.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Words:
    text: str  # of a case; {B:,} and the like are its dims
    instead: Mapping[str, str] = field(default_factory=dict)  # implementation -> what it is
    ours: str = "thrifty"  # the implementation that is compared
    exact: bool = True  # False: the error is the figure of that name, and no roofline bounds it


TABM = {"eager": "`tabm` package", "compile": "`tabm`, torch.compile"}
TORCH = {"eager": "torch", "compile": "torch.compile"}
CUTLASS = {
    "cooperative": "CUTLASS's grouped GEMM, cooperative",
    "pingpong": "CUTLASS's grouped GEMM, pingpong",
}
EXPERTS = {
    "eager": "`transformers`, eager",
    "grouped_mm": "`transformers`, grouped_mm",
    "batched_mm": "`transformers`, batched_mm",
    "sonicmoe": "`transformers`, sonic-moe",
    "deepgemm": "`transformers`, DeepGEMM",
    **CUTLASS,
}
CHAIN = ", softmax, multinomial"
DRAWS = {
    "xgrammar": f"XGrammar's mask{CHAIN}",
    "race": "XGrammar's mask, softmax, exponential race",
    "eager": f"torch's mask{CHAIN}",
    "flashinfer": "torch's mask, softmax, FlashInfer's draw",
}
MASKS = {"xgrammar": "XGrammar", "eager": "torch"}
EXACT = {
    "exact": "torch's exact attention",
    "flash_attn": "flash-attn",
    "flashinfer": "FlashInfer",
}

WORDS: dict[str, Words] = {
    # attention
    "hyper_attention_fwd": Words("attention over {N:,} tokens", EXACT, "means", exact=False),
    "hyper_attention_train": Words(
        "attention over {N:,} tokens, forward and backward", EXACT, "means", exact=False
    ),
    # drafting
    "ngram_draft": Words(
        "trees of {nodes} drafted tokens for {B:,} texts",
        {"arctic": "arctic-inference, 64 tokens"},
    ),
    "ngram_update": Words("learning {N:,} tokens of a text", {"arctic": "arctic-inference"}),
    "row_stats": Words("log-sum-exp, ten best and a draw, {N:,} rows of {V:,}", TORCH),
    "speculative_step": Words("draft, verify and learn, tree of {nodes}, V = {V:,}"),
    # sampling
    "masked_sample": Words("exact draw from what a mask allows, batch {B:,}, V = {V:,}", DRAWS),
    "masked_sample_sparse": Words("the same, one token in a hundred allowed, batch {B:,}", DRAWS),
    "apply_token_bitmask_": Words("masking {V:,} logits, batch {B:,}", MASKS),
    "apply_token_bitmask__sparse": Words("the same, one in a hundred allowed, batch {B:,}", MASKS),
    "awrs_step": Words(
        "token by rejection, a constraint in Python",
        {"genlm_recursive": "genlm-control", "genlm_geometric": "genlm-control, geometric"},
    ),
    "awrs_sample_dfa": Words(
        "token under a regular expression", {"mask": "mask of the whole vocabulary, draw"}
    ),
    "regex_first_token": Words(
        "from a regular expression to the first token", {"outlines": "outlines-core"}
    ),
    "constrained_step_xgrammar": Words(
        "token under a JSON schema, by checks", {"mask": "XGrammar's mask, draw"}, "checks"
    ),
    "constrained_step_llguidance": Words(
        "token under a JSON schema, by checks", {"mask": "llguidance's mask, draw"}, "checks"
    ),
    # moe
    "grouped_mm": Words(
        "product of {S:,} rows, each with one of 64 matrices",
        {
            "torch": "torch's grouped_mm",
            "cooperative": EXPERTS["cooperative"],
            "pingpong": EXPERTS["pingpong"],
        },
    ),
    "moe_mlp": Words("layer of 64 experts, 8 a token, batch {T:,}", EXPERTS),
    "moe_mlp_skew": Words("the same, all to one expert, batch {T:,}", EXPERTS),
    "moe_mlp_train": Words("layer of 64 experts, batch {T:,}, forward and backward", EXPERTS),
    # ensemble
    "tabm_infer": Words("TabM, batch {B:,}", TABM),
    "tabm_train": Words("TabM, forward and backward, batch {B:,}", TABM),
    "tabm_mini_infer": Words("TabM-mini, batch {B:,}", TABM),
    "tabm_mini_train": Words("TabM-mini, forward and backward, batch {B:,}", TABM),
    "tabm_packed_infer": Words("TabM-packed, batch {B:,}", TABM),
    "tabm_packed_train": Words("TabM-packed, forward and backward, batch {B:,}", TABM),
    "batch_ensemble_mlp": Words("TabM as one op, mean of members, batch {B:,}", TORCH),
    "batch_ensemble_linear_fwd": Words("BatchEnsemble layer, batch {B:,}, {d} wide", TORCH),
    "batch_ensemble_linear_bwd": Words("its backward, batch {B:,}, {d} wide", TORCH),
    "batch_ensemble_linear_fwd_shared": Words("first layer, batch {B:,}, {in} to {d}", TORCH),
    "batch_ensemble_linear_bwd_shared": Words("its backward, batch {B:,}, {in} to {d}", TORCH),
    "ensemble_linear_fwd": Words(
        "32 separate layers, batch {B:,}, {d} wide", {"eager": "`tabm` package"}
    ),
}


def words(case: Mapping) -> Words:
    """Of a case as the JSON of a run holds it."""
    found = WORDS.get(case["op"])
    if found is None:
        found = Words(case["op"], {case["baseline"]: case["baseline"]})
    return found
