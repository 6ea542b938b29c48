#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build.sh SOURCES BUILD [ARCHITECTURE]: what bench/gpu/run.sh runs, for one architecture where it
# is known. Without the libraries of the server the kernels are built alone.
set -u
root=$1 build=$2 architecture=${3:-}
set -- -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release
command -v ninja >/dev/null && set -- "$@" -G Ninja
[ -z "$architecture" ] || set -- "$@" "-DPHALANX_CUDA_ARCHITECTURES=$architecture"
all="base;proto;model;kernels;collectives;worker;coordinator;client;tests;bench"
if cmake "$@" "-DPHALANX_PARTS=$all"; then
    targets="phalanx phalanx-coordinator phalanx-worker phalanx-devices model_gpu phalanx_emu_plugin
        $(sh "$root/bench/gpu/ops.sh" --list)"
else
    echo "not everything can be built here (see deploy/install-deps): kernels alone" >&2
    rm -f "$build/CMakeCache.txt"
    cmake "$@" "-DPHALANX_PARTS=base;kernels;bench" || exit 1
    targets=
fi
cmake --build "$build" --target help >"$build/targets.txt"
for name in limits_gpu linear_gpu attention_gpu ops_gpu sample_gpu; do
    targets="$targets ${name}_emu"
    if grep -qE "(^|[ /])$name(:| |\$)" "$build/targets.txt"; then
        targets="$targets $name"
    fi
done
if grep -qE '(^|[ /])phalanx-coll-bench(:| |$)' "$build/targets.txt"; then
    targets="$targets phalanx-coll-bench"
fi
if grep -q phalanx_cuda_plugin "$build/targets.txt"; then
    targets="$targets phalanx_cuda_plugin"
else
    echo "nvcc was not found: nothing is built for devices" >&2
fi
# Unquoted: one word for each target.
cmake --build "$build" --parallel "$(nproc)" --target $targets
