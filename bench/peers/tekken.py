"""A real vocabulary of 131,072 tokens: tekken, whose file the `mistral-common` wheel carries.

Only the file is read, so `pip install --no-deps mistral-common` is enough.
"""

import base64
import importlib.util
import json
from functools import cache
from pathlib import Path

from bench.harness import Unavailable

EOS = 2
FILE = "data/tekken_240911.json"


@cache
def tokens() -> list[bytes]:
    """The bytes of every token; control tokens, the first thousand, have none."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise Unavailable("mistral_common is not installed (pip install --no-deps mistral-common)")
    described = json.loads((Path(spec.origin).parent / FILE).read_text())
    control = described["config"]["default_num_special_tokens"]
    size = described["config"]["default_vocab_size"]
    entries = described["vocab"][: size - control]
    return [b""] * control + [base64.b64decode(entry["token_bytes"]) for entry in entries]
