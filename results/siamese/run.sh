#!/usr/bin/env bash
# The commands behind this folder, with shorter paths; 4.5 hours of one core in all. runs.jsonl has
# the settings, commit, versions and seconds of each, and the losses of the short trainings.
#
#     results/siamese/run.sh CIFAR WORK    CIFAR/{train,test}/<class>/NNNN.jpg: CIFAR-10 as JPEG
set -euo pipefail
cifar=$(realpath "$1") && mkdir -p "$2" && cd "$2"
export OMP_NUM_THREADS=1

subset() { # NAME TRAIN TEST: the first so many files of each class
    for class in $(ls "$cifar/train"); do
        mkdir -p "$1/train/$class" "$1/test/$class"
        cp -u $(ls "$cifar/train/$class"/*.jpg | head -n "$2") "$1/train/$class"
        cp -u $(ls "$cifar/test/$class"/*.jpg | head -n "$3") "$1/test/$class"
    done
}
subset cifar50k 5000 200
subset cifar5k 500 200
subset cifar2500 250 200

network="--model-kwargs patch_size=4 embed_dim=128 depth=6 num_heads=4 class_token=False
    global_pool=avg fc_norm=False --image-size 32 --crop-pct 1"
colours="--mean .4914 .4822 .4465 --std .2023 .1994 .201"
untrained=untrained:vit_tiny_patch16_224
mkdir -p nets
collect() { # NAME FOLDER BACKBONE
    cp "$2/$3.safetensors" "nets/$1.safetensors" && cp "$2/$3.json" "nets/$1.json"
}

for kind in mae rmae cmae; do
    a2mim pretrain cifar10-$kind --data folder:$cifar/train \
        --workers 0 --epochs 2 --save-every 1 --out run/$kind
    collect $kind run/$kind backbone
done
a2mim probe $untrained $network --data folder:cifar50k --method finetune --recipe cifar10 \
    --finetune.epochs 2 --finetune.warmup 0.5 --finetune.workers 0 --finetune.save-every 1 \
    --out run/supervised
collect supervised run/supervised/part-000/seed-0 model

few="pretrain cifar10-mae --data folder:$cifar/train --workers 0 --epochs 1 --warmup 0.25"
for seed in 0 1 2; do
    for images in 1 10 100 1000; do
        a2mim $few --few $images --few-seed $seed --epoch-images 49920 --out run/few$images-$seed
        collect few$images-$seed run/few$images-$seed backbone
    done
done
a2mim $few --out run/few50000-0
collect few50000-0 run/few50000-0 backbone

main="nets/mae.safetensors nets/rmae.safetensors nets/cmae.safetensors nets/supervised.safetensors
    $untrained $network $colours"
seen="--images cifar5k/test --count 1024 --grid 8 --repeats 1"
a2mim invariance $main $seen --fill token_drop --fractions 0 .25 .5 .75 .9 --out run/invariance-tokens
a2mim invariance $main $seen --fill token_drop --fractions .25 .5 .75 --against complement \
    --out run/invariance-complement
a2mim invariance $main $seen --fill zero --fractions 0 .25 .5 .75 .9 --out run/invariance-pixels
a2mim probe $main --data folder:cifar5k --workers 0 --out run/probe
tune="--data folder:cifar2500 --method finetune --recipe cifar10 --finetune.epochs 5
    --finetune.workers 0 --finetune.save-every 5"
a2mim probe $main $tune --out run/finetune
for seed in 0 1 2; do
    nets="$(ls nets/few*-$seed.safetensors) $network $colours"
    a2mim probe $nets --data folder:cifar5k --workers 0 --out run/probe-few-$seed
    a2mim probe $nets $tune --out run/finetune-few-$seed
done
