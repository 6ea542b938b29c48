#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What a run was made on, for its log.
uname -srm
grep -m 1 'model name' /proc/cpuinfo
echo "processors: $(nproc)"
grep MemTotal /proc/meminfo
if command -v nvidia-smi >/dev/null; then
    nvidia-smi --format=csv,noheader \
        --query-gpu=name,driver_version,compute_cap,memory.total,clocks.max.sm,clocks.max.mem
else
    echo "no nvidia-smi"
fi
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
"$nvcc" --version 2>/dev/null | tail -n 2 || echo "no nvcc"
cmake --version 2>/dev/null | head -n 1 || echo "no cmake"
python3 -c 'import torch; print("torch", torch.__version__)' 2>/dev/null || echo "no torch"
python3 -c 'import transformers; print("transformers", transformers.__version__)' 2>/dev/null ||
    echo "no transformers"
git -C "$(dirname "$0")" log -1 --format=%H 2>/dev/null || echo "no commit"
exit 0
