#!/usr/bin/env bash
# What only a GPU can show, in at most 8 minutes on one: rows of the benchmark, tests, two recipes.
#
#   experiments/bench/gpu.sh OUT [FOLDER]
#
# The rows print a table with targets and whether they are met, and leave results/bench/<gpu>.csv.
# OUT gets the output of each part, that table, and the runs. FOLDER holds CIFAR-10 as image files
# in train/ and test/, by class; torchvision downloads the set if it is left out. PYTHON names the
# interpreter. A part that fails or takes too long does not end the others; the exit code says so.
# Compiled kernels are shared by all parts: what the rows compile, the recipes find.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=$(mkdir -p "$1" && cd "$1" && pwd)
data=${2:+folder:$(cd "$2" && pwd)/train}
probe=${2:+folder:$(cd "$2" && pwd)}
python=${PYTHON:-python}
failed=0
export TORCHINDUCTOR_CACHE_DIR=$out/compiled

part() {  # name, seconds, lines to show, command...
    local name=$1 limit=$2 lines=$3
    shift 3
    echo "== $name: $*"
    if ! timeout "$limit" "$@" >"$out/$name.txt" 2>&1; then
        echo "   failed or cut after $limit s"
        failed=1
    fi
    tail -n "$lines" "$out/$name.txt"
}

part rows 290 60 "$python" -m experiments.bench --minutes 4.7
cp results/bench/*.csv "$out" 2>/dev/null
part tests 60 15 "$python" -m pytest -q -m gpu
for name in vit resnet; do
    part "$name" 50 15 "$python" -m a2mim pretrain "cifar10-$name-gpu" --data "${data:-cifar10}" \
        --epochs 10 --warmup 1 --out "$out/cifar10-$name-gpu"
done
part probe 30 15 "$python" -m a2mim probe "$out"/cifar10-{vit,resnet}-gpu \
    --data "${probe:-cifar10}" --out "$out/probe"
exit $failed
