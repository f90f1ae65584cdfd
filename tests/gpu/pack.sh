#!/usr/bin/env bash
# Packs all that a GPU machine needs into target/gpu-kit, or the folder that is named: run.sh runs it there, and
# README.md says more.
#
#   tests/gpu/pack.sh [FOLDER]
#
# The programs are linked by zig for an old glibc; where zig can't be had, by this machine's linker, and then
# they need its glibc.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$(realpath -m "${1:-$root/target/gpu-kit}")
tools=$root/target/gpu-kit-tools
glibc=2.28
most=$((24 << 20))
cd "$root"

# Lines of PROGRAM PATH for what cargo has built.
executables() {
    python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    if message.get("executable"):
        print(message["target"]["name"], message["executable"])
'
}

[[ -x $tools/bin/cargo-zigbuild ]] || {
    python3 -m venv "$tools"
    "$tools/bin/pip" install -q cargo-zigbuild==0.24.1 ziglang==0.17.1 ||
        echo "no zig: linked by this machine's linker" >&2
}
what=(--release --message-format json -p reverie-kernels -p reverie-models -p reverie-gpu-kit
    --test gpu --test cuda --test cuda_alone --test pipelines --bench sd15 --bin reverie-gpu-kit)
if [[ -x $tools/bin/cargo-zigbuild ]]; then
    export PATH=$tools/bin:$PATH
    built=$(cargo zigbuild --target "x86_64-unknown-linux-gnu.$glibc" "${what[@]}" | executables)
else
    built=$(cargo build "${what[@]}" | executables)
fi

staged=$(mktemp -d)
trap 'rm -rf "$staged" "$staged.kit"' EXIT
mkdir -p "$staged/bin" "$staged/fixtures/diffusion"
while read -r name path; do
    strip -o "$staged/bin/$name" "$path"
    needs=$(readelf -V "$path" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
    echo "$name: $(stat -c %s "$staged/bin/$name") bytes, needs ${needs/_/ }"
    newest=$(printf '%s\n' "GLIBC_$glibc" "$needs" | sort -V | tail -n 1)
    if [[ -x $tools/bin/cargo-zigbuild && $newest != "GLIBC_$glibc" ]]; then
        echo "$name needs more than glibc $glibc" >&2
        exit 1
    fi
done <<<"$built"
cp -r tests/fixtures/diffusion/pipelines "$staged/fixtures/diffusion/"
cp -r "$here/peers" "$staged/peers"
cp tests/bench/diffusion/{contenders,protocol,peer_diffusers}.py "$staged/peers/"
git describe --always --dirty >"$staged/commit"
# What PyTorch's machines lack: the others of diffusers' needs come with transformers.
PIP_ROOT_USER_ACTION=ignore python3 -m pip install -q --no-deps --only-binary=:all: --python-version 3.12 \
    --target "$staged/site" diffusers==0.42.1 importlib-metadata==10.2.0
find "$staged" -name __pycache__ -prune -exec rm -r {} +

# Whole or not at all.
kit=$staged.kit
mkdir "$kit"
tar -C "$staged" --owner 0 --group 0 -cJf "$kit/kit.tar.xz" .
cp "$here/run.sh" "$here/run.py" "$here/README.md" "$kit/"
cp -r "$here/kit" "$kit/kit"
find "$kit" -name __pycache__ -prune -exec rm -r {} +
rm -rf "$out"
mkdir -p "${out%/*}"
mv "$kit" "$out"
size=$(du -sb "$out" | cut -f 1)
echo "$out: $size bytes"
((size <= most)) || { echo "more than $most bytes" >&2; exit 1; }
