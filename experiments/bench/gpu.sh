#!/usr/bin/env bash
# What only a GPU can show, in about 8 minutes on one: tests, rows of the benchmark, two recipes.
#
#   experiments/bench/gpu.sh OUT [FOLDER]
#
# OUT gets the output of each part, the table of rows, and the runs. FOLDER holds CIFAR-10 as image
# files in train/ and test/, by class; torchvision downloads the set if it is left out. PYTHON names
# the interpreter. A part that fails or takes too long does not end the others; the exit code says so.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=$(mkdir -p "$1" && cd "$1" && pwd)
data=${2:+folder:$(cd "$2" && pwd)/train}
probe=${2:+folder:$(cd "$2" && pwd)}
python=${PYTHON:-python}
failed=0

part() {  # name, seconds, command...
    local name=$1 limit=$2
    shift 2
    echo "== $name: $*"
    if ! timeout "$limit" "$@" >"$out/$name.txt" 2>&1; then
        echo "   failed or cut after $limit s"
        failed=1
    fi
    tail -n 15 "$out/$name.txt"
}

part tests 120 "$python" -m pytest -q -m gpu
part rows 240 "$python" -m experiments.bench --out "$out/bench" --repeats 3
for name in vit resnet; do
    part "$name" 60 "$python" -m a2mim pretrain "cifar10-$name-gpu" --data "${data:-cifar10}" \
        --epochs 10 --warmup 1 --out "$out/cifar10-$name-gpu"
done
part probe 60 "$python" -m a2mim probe "$out"/cifar10-{vit,resnet}-gpu --data "${probe:-cifar10}" \
    --out "$out/probe"
exit $failed
