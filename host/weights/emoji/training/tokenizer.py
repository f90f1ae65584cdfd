"""The vocabulary, in the format of CLIP's: `python tokenizer.py NODE_MODULES RUN`.

Trained on captions and on all English words that the emoji packages have, so that what the set does not know is still
cut into few tokens.
"""

import json
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

import captions as words

SIZE = 4096
# Of the longest caption, and of what the diffusion model is given; it sees all of the padding.
LENGTH = 32
PROMPT = 24
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def symbols():
    """The characters that stand for the 256 bytes, in CLIP's order."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in visible] + [chr(0x100 + i) for i in range(256 - len(visible))]


def corpus(modules, run):
    meta = json.loads((run / "emoji.json").read_text())
    captions, rng = words.Captions(meta), words.seeded("corpus")
    for i in range(30000):
        yield captions.caption(rng, words.scene(rng, len(meta), i % len(meta)))
    for found in json.loads((modules / "emojilib/dist/emoji-en-US.json").read_text()).values():
        yield " ".join(found).replace("_", " ")
    for entry in json.loads((modules / "emojibase-data/en/data.json").read_text()):
        yield " ".join([entry["label"], *entry.get("tags", [])])


def main(modules, run):
    modules, run = Path(modules), Path(run)
    model = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    model.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    first = symbols()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 2, end_of_word_suffix="</w>", initial_alphabet=first, show_progress=False
    )
    model.train_from_iterator(corpus(modules, run), trainer)
    trained = json.loads(model.to_str())["model"]["merges"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in trained]
    vocabulary = first + [symbol + "</w>" for symbol in first]
    known = set(vocabulary)
    kept = []
    for merge in merges:
        token = merge.replace(" ", "")
        if len(vocabulary) < SIZE - 2 and token not in known:
            kept.append(merge)
            vocabulary.append(token)
            known.add(token)
    folder = run / "tokenizer"
    folder.mkdir(exist_ok=True)
    ids = {token: i for i, token in enumerate(vocabulary + [BOS, EOS])}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *kept, ""]))
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": PROMPT,
        "bos_token": BOS,
        "eos_token": EOS,
        "unk_token": EOS,
        "pad_token": EOS,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    special = {key: config[key] for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    print(len(ids), "tokens;", tokenizer.tokenize("A smiling cat on a blue background, rocket! Wizardry 42"))


if __name__ == "__main__":
    main(*sys.argv[1:])
