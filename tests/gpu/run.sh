#!/usr/bin/env bash
# Runs what tests/gpu/pack.sh packed, on a machine with an NVIDIA GPU that has bash and python3: see README.md.
#
#   run.sh [A|B] [--only STAGE..] [--earlier status.jsonl] [--seconds 390]
set -euo pipefail
here=${BASH_SOURCE[0]%/*}
[[ $here == "${BASH_SOURCE[0]}" ]] && here=.
exec python3 -u "$here/run.py" "$@"
