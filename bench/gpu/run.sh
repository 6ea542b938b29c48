#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# All that can be said of one GPU in one call: builds, tests every op on the device, serves a model
# of random weights and compares its bits, and measures kernels, models and sums over ranks beside
# cuBLASLt, cuDNN, torch, transformers and NCCL. One table comes out, results.tsv:
#
#   row shape us noise fraction opponent ratio
#     us        median; noise: (third quartile - first) / median
#     fraction  of the ceiling that was measured in this run (linear_gpu.cu and rows.cuh say which)
#     ratio     the opponent's time in this run divided by ours; more than 1: we are faster
#
# What was not run stands there with its reason. Each stage has a time of its own, so that a slow
# one does not eat the others, and one that fails does not stop them; nothing needs a network.
set -u
usage="usage: bench/gpu/run.sh [--out DIR] [--build DIR] [--seconds N] [--shape FILE] [--emulate]
  --out DIR      where results.tsv, stages.tsv, ops.tsv and logs go (build/gpu-results)
  --build DIR    build folder, made or brought up to date (build/gpu); --no-build takes it as it is
  --seconds N    all of it ends within so many seconds (530)
  --shape FILE   the model that is served and compared (bench/gpu/shapes/llama-8b.json)
  --emulate      the same script on the emulated device, tiny: shows that it works, measures nothing
Ends with 0 when every stage that could be run has passed."
root=$(cd "$(dirname "$0")/../.." && pwd)
here=$root/bench/gpu
out=$root/build/gpu-results
build=$root/build/gpu
seconds=530
shape=$here/shapes/llama-8b.json
emulate=
no_build=
while [ $# -gt 0 ]; do
    case "$1" in
    --help) echo "$usage"; exit 0 ;;
    --emulate) emulate=1 ;;
    --no-build) no_build=1 ;;
    --out | --build | --seconds | --shape)
        [ $# -ge 2 ] || { echo "$usage" >&2; exit 2; }
        case "$1" in
        --out) out=$2 ;;
        --build) build=$2 ;;
        --seconds) seconds=$2 ;;
        --shape) shape=$2 ;;
        esac
        shift ;;
    *) echo "$usage" >&2; exit 2 ;;
    esac
    shift
done
[ -z "$emulate" ] || shape=$here/shapes/tiny.json
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
logs=$out/logs
rm -rf "$logs"
mkdir -p "$logs" "$build" || exit 2
build=$(cd "$build" && pwd)
bin=$build/bin
raw=$out/raw.tsv
: >"$raw"
: >"$out/ops.tsv"
printf 'stage\tresult\tseconds\n' >"$out/stages.tsv"
begun=$(date +%s)
status=0
tab=$(printf '\t')
PYTHONUNBUFFERED=1
PHALANX_PLUGIN_DIR=$bin
export PHALANX_PLUGIN_DIR PYTHONUNBUFFERED

left() { echo $((seconds - ($(date +%s) - begun))); }

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }

# not_run NAME REASON: of a whole stage.
not_run() {
    say "$1: not run: $2"
    printf '%s\tnot run: %s\t0\n' "$1" "$2" >>"$out/stages.tsv"
    printf '%s\t-\tnot run: %s\t-\t-\t-\t-\n' "$1" "$2" >>"$out/not_run.tsv"
}
: >"$out/not_run.tsv"

# stage NAME SECONDS COMMAND...: returns the command's status. Its output goes to a log; lines of
# tab-separated values on standard output go to raw.tsv, also when it is cut off.
stage() {
    name=$1 limit=$2
    shift 2
    most=$(($(left) - 5))
    [ "$limit" -le "$most" ] || limit=$most
    if [ "$limit" -lt 3 ]; then
        not_run "$name" "no time was left"
        return 1
    fi
    from=$(date +%s)
    timeout -k 5 "$limit" "$@" >"$logs/$name.out" 2>"$logs/$name.err"
    rc=$?
    grep -a "$tab" "$logs/$name.out" >>"$raw"
    took=$(($(date +%s) - from))
    case $rc in
    0) result=passed ;;
    124 | 137) result="cut off after $limit s" status=1 ;;
    *)
        result="FAILED ($rc): $(tail -n 1 "$logs/$name.err" | cut -c 1-200 | tr '\t' ' ')"
        status=1 ;;
    esac
    say "$name: $result, $took s"
    printf '%s\t%s\t%s\n' "$name" "$result" "$took" >>"$out/stages.tsv"
    return $rc
}

# The device's compute capability as nvcc spells it: 90a, 80; empty where there is no device.
architecture() {
    cc=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
    case "$cc" in
    '' | *[!0-9]*) ;;
    9? | 1??) echo "${cc}a" ;;
    *) echo "$cc" ;;
    esac
}

# value ROW COLUMN of raw.tsv, for ceilings that later stages are given.
copy_gbs() { awk -F '\t' '$1 == "copy" { print $6 / $5 / 1e3; exit }' "$raw"; }
tflops() { awk -F '\t' '$1 == "product" { print $7 / $5 / 1e6; exit }' "$raw"; }

# ---- building ------------------------------------------------------------------------------------

stage machine 20 sh "$here/machine.sh"
if [ -n "$no_build" ]; then
    say "build: $build is taken as it is"
else
    stage build 210 sh "$here/build.sh" "$root" "$build" "$(architecture)"
fi

# ---- what there is to run on ---------------------------------------------------------------------

device=cuda
suffix=
tiny=
if [ -n "$emulate" ]; then
    device=emu
    suffix=_emu
    tiny=tiny
elif [ ! -x "$bin/phalanx-devices" ]; then
    device=
    why="nothing has been built, see $logs/build.err"
elif ! "$bin/phalanx-devices" | grep -q '^cuda 0'; then
    device=
    why=$("$bin/phalanx-devices" | sed -n 's/^cuda: //p' | head -n 1)
    say "no GPU: ${why:-none was found}"
fi
python=$(command -v python3 || true)
if [ -z "$python" ]; then
    no_torch="there is no python3"
elif ! "$python" -c 'import torch' 2>/dev/null; then
    no_torch="python3 has no torch"
else
    no_torch=
fi

# gpu NAME SECONDS COMMAND...: a stage that needs the device.
gpu() {
    if [ -z "$device" ]; then
        not_run "$1" "no GPU"
    else
        stage "$@"
    fi
}

# opponent NAME SECONDS ARGUMENTS...
opponent() {
    if [ -n "$no_torch" ]; then
        not_run "$1" "$no_torch"
        return 1
    fi
    name=$1 limit=$2
    shift 2
    gpu "$name" "$limit" "$python" "$here/opponents.py" --seconds "$((limit - 10))" "$@"
}

# ---- the stages, what matters most first ---------------------------------------------------------

model=$(basename "$shape" .json)
gpu ops 75 sh "$here/ops.sh" "$build" "$out/ops.tsv" "$device"
gpu limits 25 "$bin/limits_gpu$suffix" $tiny
gpu linear 60 "$bin/linear_gpu$suffix" $tiny
rate=$(tflops)
gpu attention 45 "$bin/attention_gpu$suffix" ${tiny:-${rate:-}}
gpu serve 75 sh "$here/serve.sh" "$bin" "$shape" "$device" "$out/serve"
measure_model() { # NAME SHAPE SECONDS
    speeds="--copy-gbs $(copy_gbs | grep . || echo 0) --tflops $(tflops | grep . || echo 0)"
    # Unquoted: words of options.
    gpu "model-$1" "$3" "$bin/model_gpu" --model "$2" --name "$1" --device ${device:-none} \
        --seconds "$(($3 - 15))" $speeds ${tiny:+--tiny}
}
measure_model "$model" "$shape" 80
opponent torch 60 ops ${emulate:+--tiny}
opponent "transformers-$model" 80 model --shape "$shape" --name "$model" ${emulate:+--tiny}
gpu copies 30 "$bin/ops_gpu$suffix" $tiny
gpu sample 25 "$bin/sample_gpu$suffix" $tiny
# What the bench could not measure, NCCL above all, is no failure: it says so in its output.
sums() {
    if [ -z "$device" ]; then
        not_run coll "no GPU"
    elif ! command -v mpirun >/dev/null; then
        not_run coll "there is no mpirun"
    elif [ ! -x "$bin/phalanx-coll-bench" ]; then
        not_run coll "phalanx-coll-bench has not been built"
    else
        stage coll 45 sh "$here/coll.sh" "$bin" "$device" $tiny
        touch "$logs/coll.out" # there is none where no time was left
        sed -n 's/^# no \([^:]*\): \(.*\)/coll-\1\t-\tnot run: \2\t-\t-\t-\t-/p' \
            "$logs/coll.out" >>"$out/not_run.tsv"
    fi
}
sums
for name in phi-2 llama-70b-eighth mixtral-8x7b; do
    [ -z "$emulate" ] || break
    measure_model "$name" "$here/shapes/$name.json" 60
    [ "$name" != phi-2 ] ||
        opponent "transformers-$name" 45 model --shape "$here/shapes/$name.json" --name "$name"
done
if command -v compute-sanitizer >/dev/null && [ -z "$emulate" ]; then
    gpu sanitizer 60 sh "$here/sanitize.sh" "$build"
else
    not_run sanitizer "there is no compute-sanitizer"
fi

# ---- one table -----------------------------------------------------------------------------------

awk -f "$here/merge.awk" "$raw" >"$out/results.tsv"
cat "$out/not_run.tsv" >>"$out/results.tsv"
rm -f "$out/not_run.tsv"
say "$(($(wc -l <"$out/results.tsv") - 1)) rows in $out/results.tsv"
echo
cat "$out/stages.tsv"
if [ -s "$out/ops.tsv" ]; then
    echo
    cat "$out/ops.tsv"
fi
if [ -n "$device" ]; then
    echo
    grep -E '^(row|copy|product|decode|prompt|attention|all_reduce)' "$out/results.tsv" | head -n 120
else
    echo
    echo "Nothing was measured: no GPU: ${why:-none was found}."
    echo "What was built and linked for one stands in stages.tsv."
fi
exit $status
