#!/usr/bin/env bash
# Packs what gpu.txt lists, for Python 3.12 on x86-64 Linux, into gpu.tar.xz: a folder `site` that a
# machine without network puts on its PYTHONPATH. Recompressed as one, since as wheels they are twice
# as large.
#
#   benchmarks/carry.sh [FOLDER]      writes FOLDER/gpu.tar.xz (default: build)
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${1:-$here/../build}"
python="${PYTHON:-$here/../.venv/bin/python}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
pins="$work/pins.txt"
# As the lock has them: it writes names with - or _.
grep -v '^#' "$here/gpu.txt" | sed 's/-/[-_]/g' | sed 's/.*/^&==/' \
    | grep -iEf - "$here/../requirements.lock" > "$pins"
test "$(wc -l < "$pins")" = "$(grep -vc '^#' "$here/gpu.txt")"
platforms=(manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64 manylinux1_x86_64)
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }
# The one that comes as source alone; pure Python, so what is built here fits there.
grep '^rouge' "$pins" | xargs -I{} "$python" -m pip wheel --disable-pip-version-check --quiet \
    --no-deps --wheel-dir "$work" {}
grep -v '^rouge' "$pins" > "$pins.wheels"
pip download --no-deps --only-binary :all: --python-version 3.12 --implementation cp \
    "${platforms[@]/#/--platform=}" --dest "$work" --requirement "$pins.wheels"
pip install --no-index --no-deps --no-compile --target "$work/site" --python-version 3.12 \
    --implementation cp --only-binary :all: "${platforms[@]/#/--platform=}" "$work"/*.whl
rm -rf "$work/site/bin"; find "$work/site" -name tests -type d -prune -exec rm -rf {} +
mkdir -p "$out"
tar -C "$work" -cf - site | xz -6 -T0 > "$out/gpu.tar.xz"
ls -l "$out/gpu.tar.xz"
