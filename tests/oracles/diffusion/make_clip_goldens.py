"""What transformers' text encoders make of tokens, and diffusers' pipelines of prompts, for tiny random models.

    python make_clip_goldens.py ../../../host/models/assets/clip_merges.txt.gz ../../fixtures/diffusion/clip

Each case is a JSON file (configuration, recipe of the weights) and a safetensors file (tokens, every layer's state). The
weights are made again by the reader: see random_weights.py. `sd15`, `sd2` and `sdxl2` are encoders alone; `prompts`
holds what pipelines make of texts with the first and the last of them.
"""

import gzip
import json
import pathlib
import sys
import tempfile
import types

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from random_weights import fill

BOS, EOS = 49406, 49407
TINY = dict(bos_token_id=BOS, pad_token_id=1, max_position_embeddings=77, vocab_size=49408)
CASES = {
    "sd15": dict(
        **TINY,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=2,
        hidden_act="quick_gelu",
        eos_token_id=2,
        projection_dim=24,
    ),
    "sd2": dict(
        **TINY,
        hidden_size=18,
        intermediate_size=72,
        num_hidden_layers=2,
        num_attention_heads=3,
        hidden_act="gelu",
        layer_norm_eps=1e-4,
        eos_token_id=EOS,
        projection_dim=512,
    ),
    "sdxl2": dict(
        **TINY,
        hidden_size=20,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        hidden_act="gelu",
        eos_token_id=EOS,
        projection_dim=12,
    ),
}
PADS = {"sd15": EOS, "sd2": 0, "sdxl2": 0}

PLAIN = "a photo of an astronaut riding a horse on mars!! highly detailed"
NEGATIVE = "blurry, low quality"
# Texts and weights between BREAKs: what `(red:1.4) fox, [blue] sky BREAK a (very:0.5) old tree` says.
WEIGHTED = [
    [("red", 1.4), (" fox, ", 1.0), ("blue", 1 / 1.1), (" sky", 1.0)],
    [("a ", 1.0), ("very", 0.5), (" old tree", 1.0)],
]
LONG = ", ".join(f"thing number {n}" for n in range(40))


def build(name):
    """The encoder with a projection, and the same without one."""
    config = CLIPTextConfig(**CASES[name])
    model = CLIPTextModelWithProjection(config).eval()
    tensors = fill(model)
    bare = CLIPTextModel(config).eval()
    state = {key.removeprefix("text_model."): value for key, value in model.state_dict().items()}
    state.pop("text_projection.weight")
    bare.load_state_dict(state)
    if name != "sdxl2":
        tensors.pop("text_projection.weight")
    return config, model, bare, tensors


def write(out, name, config, tensors, values):
    about = {"config": config, "tensors": tensors}
    (out / f"{name}.json").write_text(json.dumps(about, separators=(",", ":")) + "\n")
    save_file({key: value.contiguous() for key, value in values.items()}, out / f"{name}.safetensors")


def encoder_goldens(out):
    generator = torch.Generator().manual_seed(1)
    for name in CASES:
        config, model, _, tensors = build(name)
        tokens = torch.randint(300, 49000, (2, 77), generator=generator)
        tokens[:, 0] = BOS
        for row, end in enumerate([76, 9]):
            tokens[row, end] = EOS
            tokens[row, end + 1 :] = PADS[name]
        made = model(tokens, output_hidden_states=True)
        pooled = model.text_model(tokens)
        values = {
            "tokens": tokens.float(),
            "last_hidden_state": pooled.last_hidden_state,
            "pooler_output": pooled.pooler_output,
            **{f"hidden_states.{n}": state for n, state in enumerate(made.hidden_states)},
        }
        if name == "sdxl2":
            values["text_embeds"] = made.text_embeds
        write(out, name, CASES[name], tensors, values)
        for key, value in values.items():
            print(f"{name:8} {key:24} {list(value.shape)} std {value.std():.3f}")


def tokenizer(merges, pad):
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = [chr(b) for b in visible] + [chr(256 + n) for n in range(256 - len(visible))]
    merged = [m.replace(" ", "") for m in merges]
    vocab = [*symbols, *(s + "</w>" for s in symbols), *merged, "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(vocab)}))
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, pad_token=pad, model_max_length=77)


def chunks(tokenizer, parts):
    """Tokens and weights, 77 each."""
    made = []
    for part in parts:
        ids = [(i, w) for text, w in part for i in tokenizer(text).input_ids[1:-1]]
        for at in range(0, max(len(ids), 1), 75):
            chunk = [(BOS, 1.0), *ids[at : at + 75], (EOS, 1.0)]
            chunk += [(tokenizer.pad_token_id, 1.0)] * (77 - len(chunk))
            made.append(chunk)
    return made


def weigh(states, chunk):
    weights = torch.tensor([w for _, w in chunk])[None, :, None]
    weighted = states * weights
    return weighted * (states.mean() / weighted.mean())


def prompt_goldens(out, merges):
    first, last = tokenizer(merges, "<|endoftext|>"), tokenizer(merges, "!")
    bare, (_, projecting, _, _) = build("sd15")[2], build("sdxl2")
    values = {}

    sd = StableDiffusionPipeline(None, bare, first, None, None, None, None, requires_safety_checker=False)
    values["sd/plain"], values["sd/negative"] = sd.encode_prompt(PLAIN, "cpu", 1, True, NEGATIVE)
    # diffusers takes the final normalisation from here; the encoder itself is that since transformers 5.6.
    bare.__dict__["text_model"] = types.SimpleNamespace(final_layer_norm=bare.final_layer_norm)
    values["sd/clip_skip"], _ = sd.encode_prompt(PLAIN, "cpu", 1, False, clip_skip=1)

    parts = {"weighted": WEIGHTED, "long": [[(LONG, 1.0)]]}
    for name, text in parts.items():
        cut = chunks(first, text)
        states = [weigh(bare(torch.tensor([[i for i, _ in chunk]]))[0], chunk) for chunk in cut]
        values[f"sd/{name}"] = torch.cat(states, dim=1)

    xl = StableDiffusionXLPipeline(None, bare, projecting, first, last, None, None)
    made = xl.encode_prompt(PLAIN, None, "cpu", 1, True, NEGATIVE)
    for key, value in zip(("plain", "negative", "plain_pooled", "negative_pooled"), made):
        values[f"sdxl/{key}"] = value
    values["sdxl/clip_skip"] = xl.encode_prompt(PLAIN, None, "cpu", 1, False, clip_skip=1)[0]
    joined, pooled = [], None
    cuts = [chunks(first, WEIGHTED), chunks(last, WEIGHTED)]
    for one, two in zip(*cuts):
        halves = []
        for model, chunk in ((bare, one), (projecting, two)):
            made = model(torch.tensor([[i for i, _ in chunk]]), output_hidden_states=True)
            halves.append(weigh(made.hidden_states[-2], chunk))
            pooled = made.text_embeds if pooled is None and model is projecting else pooled
        joined.append(torch.cat(halves, dim=-1))
    values["sdxl/weighted"], values["sdxl/weighted_pooled"] = torch.cat(joined, dim=1), pooled

    save_file({key: value.contiguous() for key, value in values.items()}, out / "prompts.safetensors")
    (out / "prompts.json").write_text(json.dumps({"plain": PLAIN, "negative": NEGATIVE, "long": LONG}) + "\n")
    for key, value in values.items():
        print(f"prompts  {key:24} {list(value.shape)} std {value.std():.3f}")


@torch.no_grad()
def main():
    merges = gzip.open(sys.argv[1], "rt", encoding="utf-8").read().splitlines()
    out = pathlib.Path(sys.argv[2])
    encoder_goldens(out)
    prompt_goldens(out, merges)


main()
