"""Random numbers of PyTorch's CPU generator, for host/models/tests/random.rs.

    pip install -r requirements.txt
    python make_random_goldens.py

Writes tests/fixtures/diffusion/random/: `randn.json`, a checksum of each of several draws in a row for several seeds, and
`randn.safetensors`, the values of the shorter draws, to see where a difference begins. Run it on a machine with AVX2: other
machines' values differ in the last bits.
"""

import json
from pathlib import Path

import torch
from diffusers.utils.torch_utils import randn_tensor
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "fixtures/diffusion/random"

SEEDS = [0, 1, 42, 2**31 - 1, 2**32 + 7, 2**63, 2**64 - 1]
# Drawn one after the other from one generator: below 16 values with a value left over or not, at 16, around multiples of
# it, as long as latents are.
LENGTHS = [1, 2, 15, 16, 17, 31, 3, 33, 1000, 4 * 64 * 64, 5, 1 * 4 * 65 * 63]
# One draw of a fresh generator, to meet rare values.
LONG = 1_000_000


def fnv1a(values: torch.Tensor) -> str:
    """64-bit FNV-1a over the bits of the values, a word at a time."""
    checksum = 0xCBF29CE484222325
    for word in values.view(torch.int32).tolist():
        checksum = ((checksum ^ (word & 0xFFFFFFFF)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{checksum:016x}"


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def main() -> None:
    assert torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    seeds, values = [], {}
    for seed in SEEDS:
        source = generator(seed)
        draws = [torch.randn(length, generator=source) for length in LENGTHS]
        values |= {f"{seed}/{i}": draw for i, draw in enumerate(draws) if len(draw) <= 33}
        long = torch.randn(LONG, generator=generator(seed))
        seeds.append({"seed": seed, "draws": [fnv1a(draw) for draw in draws], "long": fnv1a(long)})

    batch_seeds = [7, 8, 9]
    values["batch"] = randn_tensor((3, 4, 3, 2), generator=[generator(seed) for seed in batch_seeds])

    OUT.mkdir(parents=True, exist_ok=True)
    meta = {"lengths": LENGTHS, "long": LONG, "seeds": seeds, "batch_seeds": batch_seeds}
    (OUT / "randn.json").write_text(json.dumps(meta, indent=1) + "\n")
    save_file(values, OUT / "randn.safetensors")


if __name__ == "__main__":
    main()
