"""Prompts with weights and of any length as A1111's web UI reads them, from the text encoders of a diffusers pipeline.

diffusers cuts a prompt off after 75 tokens and has no weights. Here a prompt is a list of spans, `(text, weight)`, or `BREAK`
between two chunks; the embeddings go to the pipeline in place of the text.
"""

import torch

BREAK = ("BREAK", None)


def written(spans: list) -> str:
    """A prompt as a client writes it."""
    return " ".join(text if weight in (None, 1.0) else f"({text}:{weight})" for text, weight in spans)


def chunks_of(tokenizer, spans: list) -> list:
    """Tokens and weights, 77 each."""
    parts = [[]]
    for text, weight in spans:
        if weight is None:
            parts.append([])
        else:
            parts[-1] += [(token, weight) for token in tokenizer(text).input_ids[1:-1]]
    chunks = []
    for part in parts:
        pieces = [part[i : i + 75] for i in range(0, len(part), 75)] or [[]]
        for piece in pieces:
            marked = [(tokenizer.bos_token_id, 1.0), *piece, (tokenizer.eos_token_id, 1.0)]
            marked += [(tokenizer.pad_token_id, 1.0)] * (77 - len(marked))
            chunks.append(tuple(zip(*marked)))
    return chunks


def encoded(tokenizer, encoder, chunks: list, layer: int | None):
    """Hidden states of all chunks, one after the other, and what the first is pooled to. `layer` counts from the end; none is the
    last with its norm, and a positive one that layer with the norm."""
    states, pooled = [], None
    for tokens, weights in chunks:
        output = encoder(torch.tensor([tokens]), output_hidden_states=True)
        pooled = output[0] if pooled is None else pooled
        if layer is None:
            state = output[0]
        elif layer > 0:
            state = encoder.text_model.final_layer_norm(output.hidden_states[-layer])
        else:
            state = output.hidden_states[layer]
        scaled = state * torch.tensor(weights)[None, :, None]
        if any(weight != 1.0 for weight in weights):
            scaled = scaled * (state.double().mean() / scaled.double().mean()).float()
        states.append(scaled)
    return torch.cat(states, 1), pooled


def embeddings(pipeline, xl: bool, spans: list, negative: list | None, skipped: int, guided: bool) -> dict:
    """The pipeline's arguments in place of `prompt` and `negative_prompt`."""
    encoders = [(pipeline.tokenizer, pipeline.text_encoder)]
    if xl:
        encoders.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    zeros = xl and negative is None and pipeline.config.force_zeros_for_empty_prompt
    both = [[chunks_of(tokenizer, text) for tokenizer, _ in encoders] for text in (spans, negative or [])]
    # What is not encoded does not count.
    longest = max(len(chunks) for text in (both if guided else both[:1]) for chunks in text)
    arguments = {}
    for name, text, skip in [("", both[0], skipped), ("negative_", both[1], 0)]:
        if name and not guided:
            continue
        layer = (-2 - skip) if xl else (skip + 1 if skip else None)
        states = []
        for (tokenizer, encoder), chunks in zip(encoders, text):
            padded = chunks + chunks_of(tokenizer, []) * (longest - len(chunks))
            state, pooled = encoded(tokenizer, encoder, padded, layer)
            states.append(state)
        states = torch.cat(states, -1)
        if name and zeros:
            states, pooled = torch.zeros_like(states), torch.zeros_like(pooled)
        arguments[f"{name}prompt_embeds"] = states
        if xl:
            arguments[f"{name}pooled_prompt_embeds"] = pooled
    return arguments
