#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Everything that has to be seen on a GPU, in one run: bench/gpu.sh BUILD OUT [full|quick]
#
# BUILD is a build directory (it may come from another machine of the same architecture), OUT takes what is recorded.
# The device is $UNSTICK_GPU, cuda:0 by default; with UNSTICK_GPU=host:2GiB the script itself can be tried anywhere.
set -u

build=${1:?usage: bench/gpu.sh BUILD OUT [full|quick]}
out=${2:?usage: bench/gpu.sh BUILD OUT [full|quick]}
size=${3:-full}
device=${UNSTICK_GPU:-cuda:0}
unstick=$build/unstick
mkdir -p "$out"
models=$(mktemp -d)
trap 'rm -rf "$models"' EXIT
failed=0
cases=link-up,link-down,hash,evict-unchanged,evict-first,evict-dirty,restore-pinned,switch,load-file,restore-file

# run NAME COMMAND...: one step, its output in OUT/NAME.txt, its time and status on a line.
run() {
    name=$1
    shift
    start=$(date +%s)
    if "$@" >"$out/$name.txt" 2>&1; then status=ok; else status="FAILED ($?)" failed=1; fi
    echo "$name: $status, $(($(date +%s) - start)) s"
}

{
    date -u +%Y-%m-%d
    uname -sr
    nvidia-smi --query-gpu=name,driver_version,memory.total,pcie.link.gen.max,pcie.link.width.max --format=csv,noheader
    "$unstick" version
} >"$out/machine.txt" 2>&1

case $device in
cuda:*)
    run conformance "$build/test/conformance/conformance-cuda"
    run driver "$build/test/conformance/conformance-driver"
    UNSTICK_TEST_DEVICE=$device run core-region "$build/test/core/core-region-test"
    UNSTICK_TEST_DEVICE=$device run core-stress "$build/test/core/core-stress-test"
    UNSTICK_TEST_DEVICE=$device run core-fault "$build/test/core/core-fault-test"
    ;;
esac
run doctor "$unstick" doctor
UNSTICK_TEST_DEVICE=$device run reading "$build/test/monitor/reading-time"
run reclaim "$build/examples/example-reclaim" "$device"
run demo "$unstick" demo

# Full size is what fits no small card: FLUX with T5 in 8-bit and in 4-bit, 17 and 10 GiB.
if [ "$size" = full ]; then
    scale=1 one=18GiB both=24GiB moved=16GiB pinned=4GiB
else
    scale=256 one=96MiB both=112MiB moved=64MiB pinned=64MiB
fi
run synth-8bit "$unstick" synth "$models/8" --model flux-dev --quant 8-bit --scale $scale
run synth-4bit "$unstick" synth "$models/4" --model flux-dev --quant 4-bit --scale $scale
cat >"$models/switch.json" <<JSON
{"models": [{"id": "flux-dev", "quantization": "8-bit", "path": "$models/8"},
            {"id": "flux-dev", "quantization": "4-bit", "path": "$models/4"}],
 "requests": ["flux-dev_8-bit", "flux-dev_4-bit", "flux-dev_8-bit", "flux-dev_4-bit", "flux-dev_8-bit",
              "flux-dev_4-bit", "flux-dev_8-bit", "flux-dev_4-bit", "flux-dev_8-bit", "flux-dev_4-bit"]}
JSON
for tier in pinned file; do
    run "replay-one-$tier" "$unstick" replay "$models/switch.json" --device "$device" --device-memory $one \
        --backup $tier --json
    run "replay-both-$tier" "$unstick" replay "$models/switch.json" --device "$device" --device-memory $both \
        --backup $tier --json
done
run replay-verified "$unstick" replay "$models/switch.json" --device "$device" --device-memory $one --verify --json
# The driver's own pinned memory takes seconds per 4 GiB, so that case is smaller than the others.
run bench-pin "$unstick" bench --device "$device" --size $pinned --runs 20 --only pin --json
run bench-move "$unstick" bench --device "$device" --size $moved --runs 20 --only "$cases" --dir "$models" --json
exit $failed
