#!/usr/bin/env bash
# The GPU backend against PyTorch and diffusers on the first GPU (of CUDA_VISIBLE_DEVICES), in one go: each operation, attention
# once more by wgmma where the GPU has it, then pictures of Stable Diffusion 1.5's shape. Prints Markdown that says where and
# with what it ran; a ratio above 1 means that Reverie is faster. What goes on meanwhile is told on standard error.
#
#   python -m venv .venv && . .venv/bin/activate && pip install -r tests/bench/gpu/requirements.txt
#   tests/bench/gpu/run.sh [FILTER…] > results.md
#
# A filter is a part of an operation's name, or `pictures`. These need 4 GB of random weights: in the folder that
# REVERIE_FULL_SIZE names, where they are made if they are missing, and else in a temporary one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export REVERIE_FULL_SIZE
REVERIE_FULL_SIZE=$(realpath -m "${REVERIE_FULL_SIZE:-$work/weights}")
cd "$here/../../.."
# As nvidia-smi numbers them.
export CUDA_DEVICE_ORDER=PCI_BUS_ID

operations=()
pictures=$((!$#))
for filter in "$@"; do
    if [[ $filter == pictures ]]; then
        pictures=1
    else
        operations+=("$filter")
    fi
done

# Where, when and with what.
describe() {
    local gpu commit
    commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
    gpu=${CUDA_VISIBLE_DEVICES:-0}
    printf '## On a GPU, %s\n\n' "$(date -u +%Y-%m-%d)"
    nvidia-smi --id="${gpu%%,*}" --format=csv,noheader \
        --query-gpu=name,driver_version,compute_cap,memory.total,power.limit,clocks.max.sm |
        awk -F', ' '{ printf "- %s, driver %s, compute capability %s, %s, at most %s and %s\n", $1, $2, $3, $4, $5, $6 }'
    python - <<'PYTHON'
from importlib.metadata import version

import torch

print(f"- PyTorch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}", end="")
print(f", diffusers {version('diffusers')}")
PYTHON
    printf -- '- Reverie at %s, %s\n' "$commit" "$(rustc --version)"
    printf -- '- %s, %s\n\n' "$(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)" "$(uname -sr)"
}

# Writes the names and times of those that a filter fits.
measure_operations() {
    cargo bench --quiet -p reverie-kernels --bench gpu -- "$@" | tee "$work/operations" >&2
}

make_weights() {
    # Made last: where it is, all are.
    if [[ ! -f $REVERIE_FULL_SIZE/model.safetensors ]]; then
        mkdir -p "$REVERIE_FULL_SIZE"
        python tests/oracles/diffusion/make_full_size.py "$REVERIE_FULL_SIZE" --threads "$(nproc)" >&2
        python tests/oracles/diffusion/make_single_file.py "$REVERIE_FULL_SIZE" >&2
    fi
}

# With a filter that fits none it only looks for the GPU.
measure_operations none
if grep '^# skipped' "$work/operations"; then
    exit 0
fi
describe
if ((!$# || ${#operations[@]})); then
    measure_operations "${operations[@]}"
    python "$here/torch_peer.py" "$work/operations"
    measure_operations --wgmma attention
    if ! grep -q '^# skipped' "$work/operations"; then
        printf '\nWith wgmma:\n\n'
        python "$here/torch_peer.py" "$work/operations"
    fi
fi
if ((pictures)); then
    make_weights
    python tests/bench/diffusion/sd15.py "$REVERIE_FULL_SIZE" --device cuda
fi
