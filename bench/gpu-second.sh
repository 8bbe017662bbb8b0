#!/bin/sh
# The second call on a GPU, 360 s: how fast is it? The step beside its model alone and the ways of others; the input and
# the loss kernel beside their peers; whole runs of 50 epochs; other batches; one change at a time; small pictures.
#
#   bench/gpu-second.sh [--only NAME ...]        its record goes to bench/results, or to $OUT
#
# What it needs, and COMMIT, DEVICE and SMALL: as bench/gpu-first.sh.
cd "$(dirname "$0")/.." || exit
PY=${PY:-python3}
"$PY" -m bench.jpegs || exit
exec "$PY" -m bench.gpu --name second --seconds "${LIMIT:-360}" --out "${OUT:-bench/results}" \
  --device "${DEVICE:-cuda}" ${SMALL:+--small} ${COMMIT:+--commit "$COMMIT"} "$@" <<'EOF'
# seconds | name | command | flags of a small run
150 | step             | -m bench.step --batch-size 128 --repeats 1 --limit 90 --contenders model steps default best study | --batch-size 4 --img-size 64 --steps 1 --workers 1 --limit 0
60  | view             | -m bench.view --rounds 3 --limit 20 | --batch-size 2 --img-size 32 --rounds 1 --limit 60
30  | loss-50-bfloat16 | -m bench.loss --dtype bfloat16 --rounds 5 --limit 15 | --rows 8 --rounds 1 --calls 1 --limit 60
120 | epochs           | -m bench.epochs --runs cold warm --cache {caches} --limit 90 | --epochs 1 --pictures 16 --img-size 32 --batch-size 4 --limit 0
75  | step-more        | -m bench.step --batch-size 64 256 --repeats 1 --limit 60 --contenders model steps | --batch-size 2 3 --img-size 32 --steps 1 --limit 0
90  | variants         | -m bench.variants --repeats 1 --limit 45 --trials 0 --packed --changes "not captured" "not compiled" neither "conv1 of 4 channels" "without batch norm, a bound" | --img-size 32 --batch-size 2 --steps 2 --limit 0
60  | variants-32px    | -m bench.variants --model resnet32 --img-size 32 --repeats 3 --limit 45 --trials 0 --changes "as it is" --packed 128 | --batch-size 2 --steps 2 --packed 2 --repeats 1 --limit 0
EOF
