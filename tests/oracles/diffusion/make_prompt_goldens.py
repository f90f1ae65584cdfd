"""What transformers' CLIPTokenizer makes of many texts, with the special tokens of several models.

    python make_prompt_goldens.py ../../../host/models/assets/clip_merges.txt.gz ../../fixtures/diffusion/prompt

Needs transformers. Writes `tokens.json`: for each way in which a tokenizer folder gives its special tokens the JSON files of
that folder, and the ids of each text without BOS and EOS. The vocabulary itself is made from the merges.
"""

import gzip
import json
import pathlib
import sys
import tempfile

from transformers import CLIPTokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"

TEXTS = [
    "",
    " ",
    "a photo of an astronaut riding a horse on mars",
    "Hello!! World!!!",
    "  many \t kinds\n\nof   white\u00a0space\u2003here\u200b! ",
    "It's we're they've I'm you'll he'd don't O'Neill's 'quoted' ''s 'S 'RE",
    "masterpiece, best quality, (ultra-detailed:1.2), 8k, f/1.4, 35mm, #art @artist $5 50% <lora:x:1>",
    "1234567890 3.14159 ½ ² Ⅷ ٣ ๕ 一二三",
    "naïve café résumé Ångström Zürich façade jalapeño",
    "nai\u0308ve cafe\u0301 A\u030angstro\u0308m",
    "İSTANBUL ΣΑΣ ΟΔΥΣΣΕΥΣ ßẞ ﬁ ǅ",
    "Москва Київ Ελλάδα العربية עברית हिन्दी ไทย 日本語 中文字符 한국어 ქართული",
    "emoji 😀 👩‍👩‍👧‍👦 🇩🇪 ❤️ ☃ 👍🏽 end",
    "mixed😀text🐱without spaces日本language",
    "…—–“”‘’«»¿¡§¶†‡•™©®°±×÷≠≤≥∞∑√∫",
    "-_-_-_-- ... !!! ??? *** /// \\\\\\ ~~~ ^^^ ``` ||| {}[]()<>",
    "a" * 400,
    "ab " * 120,
    "Supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "greg rutkowski, artstation, trending on artstation, unreal engine, octane render, wlop, alphonse mucha",
    "a<|endoftext|>b <|startoftext|> c",
    "a <|ENDOFTEXT|> b <|StartOfText|> c <|endoftext|",
    "!",
    "a!b ! c!! !!",
    "\ufeffbom \u0000nul \u0007bell \u007fdel \u00adsoft",
    "\U0001d4d0\U0001d4d1 ⓐⓑ ①② Ⓐ ª º ʰ",
    "e\u0301\u0323 q\u0307\u0323 \u1e9b\u0323 \u212b \ufb01 \u0344",
    "https://example.com/a?b=c&d=e#f user@example.com C++ C# .NET 10:30pm",
    "BREAK break AND and (a:1.5) [b] \\(c\\)",
    "x\ry\r\nz\u2028p\u2029q\u0085r\x0bv\x0cf\x1c1",
    "ǆ Ǆ ŉ ΐ ﷺ ㍿ ㎏ Å",
    "கி நி ลำ ຳ เ์ ंः् ါ ិ",
]


def added(content, normalized):
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, "normalized": normalized, **flags}


def folders():
    """The special tokens as the published models' tokenizer folders have them."""
    common = {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}
    texts = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS}
    decoder = {"49406": added(BOS, True), "49407": added(EOS, True)}
    fields = {"bos_token": added(BOS, True), "eos_token": added(EOS, True), "unk_token": added(EOS, True)}
    typed = {name: {"__type": "AddedToken", **token} for name, token in fields.items()}
    yield "none", {}
    yield "sd1", {"tokenizer_config.json": {**common, **typed, "pad_token": EOS}}
    yield "sdxl", {"tokenizer_config.json": {**common, **texts, "pad_token": EOS, "added_tokens_decoder": decoder}}
    decoder = {"0": added("!", False), **decoder}
    yield "sdxl2", {"tokenizer_config.json": {**common, **texts, "pad_token": "!", "added_tokens_decoder": decoder}}
    map_ = {**fields, "pad_token": "!"}
    yield "sd2", {"tokenizer_config.json": {**common, **typed}, "special_tokens_map.json": map_}
    yield "plain", {"tokenizer_config.json": {**common, **texts, "pad_token": "!"}}


def vocabulary(merges):
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in visible]
    symbols = [chr(b) for b in visible] + [chr(256 + n) for n in range(len(hidden))]
    tokens = symbols + [s + "</w>" for s in symbols] + [m.replace(" ", "") for m in merges] + [BOS, EOS]
    return {token: n for n, token in enumerate(tokens)}


def main():
    merges = gzip.open(sys.argv[1], "rt", encoding="utf-8").read().splitlines()
    out = pathlib.Path(sys.argv[2])
    cases = []
    for name, files in folders():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "vocab.json").write_text(json.dumps(vocabulary(merges)))
            (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
            for file, content in files.items():
                (folder / file).write_text(json.dumps(content))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
            ids = [tokenizer(text).input_ids[1:-1] for text in TEXTS]
            cases.append({"name": name, "files": files, "pad": tokenizer.pad_token_id, "ids": ids})
            print(name, tokenizer.pad_token_id, sum(map(len, ids)))
            if name == "sdxl2":
                tokenizer.save_pretrained(folder / "saved")
                print([p.name for p in (folder / "saved").iterdir()])
    (out / "tokens.json").write_text(json.dumps({"texts": TEXTS, "cases": cases}, ensure_ascii=True))


main()
