#!/usr/bin/env bash
# The GPU backend against PyTorch on the first GPU, in one go: prints both times and their ratio (above 1, Reverie is faster). Where
# the GPU has wgmma, attention is timed once more with it.
#
#   python -m venv .venv && . .venv/bin/activate && pip install -r tests/bench/gpu/requirements.txt
#   tests/bench/gpu/run.sh [FILTER…]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
ours=$(mktemp)
trap 'rm -f "$ours"' EXIT
cd "$here/../../.."
cargo bench --quiet -p reverie-kernels --bench gpu -- "$@" | tee "$ours"
if grep -q '^# skipped' "$ours"; then
    exit 0
fi
python "$here/torch_peer.py" "$ours"
cargo bench --quiet -p reverie-kernels --bench gpu -- --wgmma attention | tee "$ours"
if ! grep -q '^# skipped' "$ours"; then
    python "$here/torch_peer.py" "$ours"
fi
