#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A process with a model on a GPU is hibernated and woken, and its next output compared bit by bit:
#
#   bench/hibernate.sh UNSTICK OUT.json [--gib N] [--cycles N] [--kind flux|torch|plain] [--no-probes]
#
# UNSTICK is the command, OUT.json takes all that was seen: times, what the process and the device held before, while
# and after, and the answers to what goes wrong (a driver that runs out of time or of room, processes that are killed
# meanwhile). --kind torch (a 4-bit transformer of the size of FLUX, and a CUDA graph) needs torch in $PYTHON, python3
# by default, flux (the whole pipeline and an image) diffusers and bitsandbytes as well; plain needs nothing but the
# driver. SKIP (77) where there is no GPU, or no torch that uses it.
set -eu

usage='usage: bench/hibernate.sh UNSTICK OUT.json [--gib N] [--cycles N] [--kind flux|torch|plain] [--no-probes]'
unstick=${1:?$usage}
out=${2:?$usage}
shift 2
python=${PYTHON:-python3}

skip() {
    echo "SKIP: $*"
    exit 77
}

kind=torch
[[ " $* " != *' --kind plain '* ]] || kind=plain
"$python" -c 'import ctypes as c; l = c.CDLL("libcuda.so.1"); exit(l.cuInit(0))' 2>/dev/null || skip 'no GPU here'
if [[ $kind == torch ]]; then
    "$python" -c 'import torch; exit(not torch.cuda.is_available())' 2>/dev/null ||
        skip "no torch that sees a GPU in $python; --kind plain needs none"
fi
[[ -x $unstick ]] || {
    echo "bench/hibernate.sh: $unstick is no program" >&2
    exit 2
}
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo '?')
echo "driver and GPU: $gpu"
exec "$python" "$(dirname "$0")/hibernate/observe.py" "$unstick" "$out" "$@"
