#!/usr/bin/env bash
# The tests of the GPU backend under NVIDIA's compute-sanitizer, which comes with the CUDA toolkit: memcheck, racecheck, synccheck.
#
#   tests/bench/gpu/sanitize.sh [FILTER…]
#
# A filter is a part of a test's name. It ends with an error where a tool or a test finds one. This takes many times as long as
# the tests by themselves.
set -euo pipefail
cd "$(dirname "$0")/../../.."
if ! command -v compute-sanitizer >/dev/null; then
    echo "skipped: compute-sanitizer is not in PATH"
    exit 0
fi
if ! nvidia-smi --list-gpus >/dev/null 2>&1; then
    echo "skipped: no NVIDIA GPU"
    exit 0
fi
test=$(cargo test -p reverie-kernels --test cuda --no-run --message-format json |
    sed -n 's/.*"executable":"\([^"]*\/cuda-[^"]*\)".*/\1/p')

# Runs by a tool the tests that filters fit.
sanitize() {
    local tool=$1
    shift
    echo "== $tool"
    # One test after the other, so that what is found stands beside its name.
    compute-sanitizer --tool "$tool" --error-exitcode 1 "${options[@]}" "$test" --test-threads 1 "$@"
}

# Tests ask the driver for what it does not have: errors of its functions are no finding. The padding keeps the next block of memory
# from hiding that a kernel goes beyond the one before.
options=(--report-api-errors no --padding 512)
sanitize memcheck "$@"
# Shared memory and barriers are the kernels' affair: by the operations, without what tests the device's own memory.
options=()
if (($#)); then
    shared=("$@")
else
    shared=(operations::)
fi
sanitize racecheck "${shared[@]}"
sanitize synccheck "${shared[@]}"
