#!/bin/sh
# Runs a fuzz target: run.sh TARGET [SECONDS, 600 by default] [further options of libFuzzer]. New inputs are kept in corpus/TARGET;
# one that fails in artifacts/TARGET.
set -eu
target=${1:?a target: a name of src/bin without .rs}
seconds=${2:-600}
[ $# -gt 1 ] && shift
shift
cd "$(dirname "$0")"
mkdir -p "corpus/$target"
dictionary=
[ -f "dictionaries/$target" ] && dictionary="-dict=dictionaries/$target"
# An input may take 10 s, an allocation 1 GiB, the process 3 GiB.
exec cargo +nightly fuzz run --fuzz-dir . "$target" "corpus/$target" "seeds/$target" -- \
    $dictionary -max_total_time="$seconds" -timeout=10 -malloc_limit_mb=1024 -rss_limit_mb=3072 -max_len=65536 "$@"
