#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check.sh MODEL.pml: spin must find nothing wrong with the model, and something with each planted bug
# that its line "bugs:" names. Exits 77, which ctest shows as skipped, where there is no spin.
set -eu
command -v spin >/dev/null 2>&1 || { echo "skipped: no spin"; exit 77; }
model=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Prints spin's number of errors for the model with the given definitions.
errors() {
    rm -f pan*
    spin -a "$@" "$model" >spin.txt 2>&1 || { cat spin.txt >&2; exit 1; }
    ${CC:-cc} -O1 -w -DSAFETY -DMEMLIM=2048 -o pan pan.c
    ./pan -m200000 >pan.txt 2>&1
    if grep -q "max search depth too small\|out of memory" pan.txt; then cat pan.txt >&2; exit 1; fi
    sed -n 's/.*errors: \([0-9]*\).*/\1/p' pan.txt
}

found=$(errors)
echo "$(basename "$model"): $found errors, $(sed -n 's/ *\([0-9.e+]*\) states, stored.*/\1/p' pan.txt) states"
[ "$found" = 0 ] || { cat pan.txt; exit 1; }
for bug in $(sed -n 's/^\/\/ bugs: //p' "$model"); do
    found=$(errors "-D$bug")
    echo "  with $bug: $found errors: $(sed -n 's/^pan:1: //p' pan.txt | head -1)"
    [ "$found" != 0 ] || { echo "the planted bug was not found"; exit 1; }
done
