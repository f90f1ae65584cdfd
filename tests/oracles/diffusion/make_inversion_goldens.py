"""Tokens of prompts with textual inversions of several vectors, for host/models/tests/tokenizer.rs.

    pip install -r requirements.txt
    python make_inversion_goldens.py

Writes tests/fixtures/diffusion/prompt/inversions.json: the tokens that were added to the tokenizer of
tests/fixtures/diffusion/pipelines/sd, and of each prompt the tokens, without the padding, after diffusers' pipelines have
put all vectors of an inversion in place of its first.
"""

import json
from pathlib import Path

from diffusers.loaders import TextualInversionLoaderMixin
from transformers import CLIPTokenizer

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures/diffusion"
ADDED = ["<cat-toy>", "<cat-toy>_1", "<cat-toy>_2", "<plain>", "<gap>", "<gap>_2"]
PROMPTS = [
    "a photo of a <cat-toy>",
    "<cat-toy>, the <plain> house <cat-toy>",
    "a <gap> dog",
    "a dog",
]


def main() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FIXTURES / "pipelines/sd/tokenizer")
    tokenizer.add_tokens(ADDED)
    cases = []
    for prompt in PROMPTS:
        converted = TextualInversionLoaderMixin()._maybe_convert_prompt(prompt, tokenizer)
        cases.append({"prompt": prompt, "tokens": tokenizer(converted)["input_ids"][1:-1]})
    added = {token: tokenizer.convert_tokens_to_ids(token) for token in ADDED}
    text = json.dumps({"added_tokens": added, "cases": cases}, indent=1)
    (FIXTURES / "prompt/inversions.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
