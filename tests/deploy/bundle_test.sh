#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# bundle_test.sh SOURCES ARCHIVE|-: the archive of deploy/bundle (made here if it is "-", which takes
# the network) on a machine that has none of its packages and no network: this machine's files with
# those packages taken away, under an overlay. There it is installed, serves the demo model and
# answers; and what it refuses is refused in words. Needs root and overlayfs, and says so.
set -eu
source=$1 archive=$2
skip() { echo "skipped: $*"; exit 0; }
[ "$(id -u)" = 0 ] || skip "not root"
command -v unshare >/dev/null || skip "no unshare"
work=$(mktemp -d /var/tmp/phalanx-bundle-test.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
if [ "$archive" = - ]; then
    archive=$work/bundle.tar.xz
    "$source/deploy/bundle" --output "$archive" >"$work/log" 2>&1 ||
        { cat "$work/log"; grep -qE 'cannot be (had|fetched)' "$work/log" && skip "no network"; exit 1; }
fi
[ "$(stat -c %s "$archive")" -le $((50 << 20)) ] || { echo "over 50 MiB"; exit 1; }
mkdir "$work/upper" "$work/work" "$work/root" "$work/in"
tar -xJf "$archive" -C "$work/in"
set -- "$work"/in/*/
unpacked=${1%/}

# What does not fit is refused before anything is changed.
refused() { # WORDS VARIABLE=VALUE
    if env "$2" "$unpacked/install" --prefix "$work/never" >"$work/log" 2>&1; then
        echo "not refused: $2"
        exit 1
    fi
    grep -q "$1" "$work/log" || { echo "other words for $2:"; cat "$work/log"; exit 1; }
    grep -q "nothing has been changed" "$work/log" && [ ! -e "$work/never" ] || exit 1
}
refused "this machine is aarch64, and the archive is for" PHALANX_INSTALL_MACHINE=aarch64
refused "glibc 2.17 is too old" PHALANX_INSTALL_GLIBC=2.17

cat >"$work/inside" <<'E'
set -eu
work=$1
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$work/root"
for f in proc sys dev; do mount --rbind "/$f" "$work/root/$f"; done
mount -t tmpfs tmpfs "$work/root/tmp"
mkdir "$work/root/tmp/bundle"
mount --bind "$2" "$work/root/tmp/bundle"
# The packages of the archive are not there, but for libraries that sed, cmake and the like need.
needed=$(for tool in sed grep tar xz cmake ninja cc ld ldd; do
    ldd "$(command -v $tool)" 2>/dev/null
done | awk '$2 == "=>" { print $3 }' | sort -u | while read -r f; do
    realpath "$f"
done | tr '\n' ' ')
cut -f 1 "$2/PACKAGES" | while read -r p; do
    dpkg -L "$p" 2>/dev/null | grep -v '^/\(bin\|lib\)$' | while read -r f; do
        case " $needed " in *" $(realpath "$f" 2>/dev/null || echo -) "*) continue ;; esac
        [ ! -f "$work/root$f" ] && [ ! -L "$work/root$f" ] || rm -f "$work/root$f"
    done
done
ip link set lo up 2>/dev/null || true
exec chroot "$work/root" sh -eu -c '
    # Tools of those packages that a C compiler and cmake need are not among them.
    ! pkg-config --exists libzmq 2>/dev/null || { echo "libzmq is still there"; exit 1; }
    ! command -v mpirun >/dev/null || { echo "mpirun is still there"; exit 1; }
    cd /tmp
    HOME=/tmp ./bundle/install --prefix /tmp/phalanx --check
    HOME=/tmp ./bundle/install --prefix /tmp/phalanx
    . /tmp/phalanx/env.sh
    cd /tmp/phalanx/src
    mkfifo /tmp/ready
    phalanx serve --model deploy/demo-model --model-name demo --tensor-parallel-degree 2 \
        --device cpu --endpoint ipc:///tmp/demo.ipc >/tmp/ready &
    server=$!
    read -r line </tmp/ready
    echo "$line"
    phalanx generate --endpoint ipc:///tmp/demo.ipc --model demo --prompt "Once upon a time" \
        --max-tokens 20 --temperature 0 >/tmp/answer
    cat /tmp/answer
    [ "$(wc -c </tmp/answer)" -gt 20 ]
    kill -TERM $server
    wait $server
    sh bench/gpu/run.sh --no-build --build build/release --out /tmp/results --seconds 60 || true
    grep -q "no GPU" /tmp/results/stages.tsv
'
E
# Mounts and the network of its own, which end with it.
unshare -m -n -p -f --kill-child sh "$work/inside" "$work" "$unpacked" ||
    { grep -q overlay /proc/filesystems || skip "no overlayfs"; exit 1; }
echo "passed"
