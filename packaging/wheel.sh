#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# packaging/wheel.sh VENV: the wheel for the Python of VENV, in build-wheels/dist. VENV has meson-python, Meson and
# Ninja; uv, auditwheel and patchelf are in PATH.
#
# The wheel brings its jansson along, with jansson's licence: a system that has none, or another, runs it. Its tag says
# the oldest glibc that it runs with, which is that of the system where it is made, or older.
set -eu
cd "$(dirname "$0")/.."
venv=$1
made=$venv/../made
rm -rf "$made"
tag=$("$venv/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
rm -f build-wheels/dist/*-"$tag"-*.whl

PATH=$venv/bin:$PATH uv build --wheel --no-build-isolation --python "$venv/bin/python" --out-dir "$made" \
    -Cbuild-dir="$venv/../build" .

licence=
for file in /usr/share/doc/libjansson4/copyright /usr/share/licenses/jansson/LICENSE; do
    [ ! -r "$file" ] || licence=$file
done
[ "$licence" ] || {
    echo "the licence of jansson, which goes into the wheel, is not where Debian or Fedora have it"
    exit 1
}
# What is listed in the wheel is put right by auditwheel, which writes it again.
"$venv/bin/python" - "$made"/*.whl "$licence" <<'END'
import sys
import zipfile

with zipfile.ZipFile(sys.argv[1], 'a') as wheel:
    info = next(name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
    wheel.write(sys.argv[2], info.replace('METADATA', 'licenses/jansson'))
END
auditwheel repair --wheel-dir build-wheels/dist "$made"/*.whl
