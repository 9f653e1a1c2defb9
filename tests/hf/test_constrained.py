"""ConstrainedLogitsProcessor in `generate`, the vocabulary of tokenizers, and the example."""

import re
from pathlib import Path

import pytest
import torch

from helpers import load_example

transformers = pytest.importorskip("transformers")

import thrifty  # noqa: E402
import thrifty.hf  # noqa: E402
from thrifty.constraints import DFAConstraint  # noqa: E402

ROOT = Path(__file__).parents[2]
PATTERN = r"[a-z]{1,8}( = [0-9]{1,3})?\n"
EOS = 0  # <|eot|>


@pytest.fixture(scope="module")
def llama():
    path = ROOT / "tests/assets/tiny-stdlib-llama"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return tokenizer, model, thrifty.hf.vocabulary(tokenizer, model.config.vocab_size)


def generate(llama, processor, rows: int = 3, **options):
    tokenizer, model, vocabulary = llama
    inputs = tokenizer(["    def f(self):\n        "] * rows, return_tensors="pt")
    length = inputs.input_ids.shape[1]
    out = model.generate(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=16,
        logits_processor=[processor], eos_token_id=EOS, pad_token_id=EOS, **options,
    )[:, length:]  # fmt: skip
    return ["".join(vocabulary[t].decode() for t in row if t != EOS) for row in out.tolist()]


def test_vocabulary_spells_texts(llama) -> None:
    tokenizer, _, vocabulary = llama
    assert vocabulary[EOS] == b""
    for text in (
        "def f(x):\n    return 'é日本😀'\n",
        "\t\x00\x7f",
        (ROOT / "Makefile").read_text(),
    ):
        ids = tokenizer(text).input_ids
        assert b"".join(vocabulary[i] for i in ids) == text.encode()
    assert len(thrifty.hf.vocabulary(tokenizer, 5000)) == 5000
    assert thrifty.hf.vocabulary(tokenizer, 5000)[4999] == b""


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 0.7, "top_k": 3}])
def test_texts_satisfy_the_constraint(llama, options: dict) -> None:
    dfa = thrifty.ByteDFA.from_regex(PATTERN, llama[2], EOS)
    processor = thrifty.hf.ConstrainedLogitsProcessor(dfa, seed=4)
    texts = generate(llama, processor, **options)
    assert all(re.fullmatch(PATTERN, text) for text in texts)
    assert len(set(texts)) > 1
    assert processor.log_weights.shape == (3,)
    assert (processor.log_weights < 0).all()
    assert processor.log_weights.isfinite().all()
    assert (processor.n_checked > 0).all()
    processor.reset()
    assert generate(llama, processor, **options) == texts


def test_constraints_per_text_give_the_same_texts(llama) -> None:
    dfa = thrifty.ByteDFA.from_regex(PATTERN, llama[2], EOS)
    whole = thrifty.hf.ConstrainedLogitsProcessor(dfa, seed=4)
    each = thrifty.hf.ConstrainedLogitsProcessor(
        [DFAConstraint(dfa) for _ in range(3)], eos_ids=EOS, seed=4
    )
    texts = generate(llama, whole)
    assert generate(llama, each) == texts or (whole.n_checked > 4096).any()


def test_dead_ends_end(llama) -> None:
    """A language that the vocabulary cannot spell: the end is forced, with weight 0."""
    vocabulary = [None] * len(llama[2])
    dfa = thrifty.ByteDFA.from_regex("a", vocabulary, EOS)
    processor = thrifty.hf.ConstrainedLogitsProcessor(dfa)
    assert generate(llama, processor) == [""] * 3
    assert (processor.log_weights == -torch.inf).all()


def test_wrong_use(llama) -> None:
    dfa = thrifty.ByteDFA.from_regex(PATTERN, llama[2], EOS)
    with pytest.raises(ValueError, match="eos_ids: expected the tokens"):
        thrifty.hf.ConstrainedLogitsProcessor([DFAConstraint(dfa)])
    with pytest.raises(ValueError, match="eos_ids: expected at least one"):
        thrifty.hf.ConstrainedLogitsProcessor(dfa, eos_ids=[])
    one = thrifty.hf.ConstrainedLogitsProcessor([DFAConstraint(dfa)], eos_ids=EOS)
    scores = torch.zeros(2, 4096)
    with pytest.raises(ValueError, match="constraint: expected one for each of 2 texts, got 1"):
        one(torch.zeros(2, 1, dtype=torch.long), scores)
    processor = thrifty.hf.ConstrainedLogitsProcessor(dfa)
    first = processor(torch.zeros(2, 1, dtype=torch.long), scores).argmax(1)
    with pytest.raises(ValueError, match="expected each text to go on with the token chosen"):
        processor((first + 1)[:, None], scores)


def test_example(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    results = load_example("constrained_json").main(["--quick", "--plot", str(tmp_path / "x.png")])
    assert (tmp_path / "x.png").stat().st_size > 10_000
    assert "regular expression, 4 particles" in capsys.readouterr().out
    for runs in results.values():
        assert runs["masking"].valid == 1
        for run in runs.values():
            assert run.tokens > 0
            assert run.checks <= runs["masking"].checks / runs["masking"].tokens * run.tokens * 1.2
