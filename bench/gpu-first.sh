#!/bin/sh
# The first call on a GPU, 200 s: does it work? Versions and ceilings; kernels against twins, capture and replay; a real
# training, captured and compiled, beside its eager twin; then all other tests that need a GPU, the quick files first.
#
#   bench/gpu-first.sh [--only NAME ...]         its record goes to bench/results, or to $OUT
#
# It needs python3 (or $PY) with torch, triton, numpy, pillow, pytest, tqdm and matplotlib; neither git nor a network.
# COMMIT says what is measured where there is no .git. DEVICE=cpu SMALL=1 runs the same chain in small.
cd "$(dirname "$0")/.." || exit
PY=${PY:-python3}
"$PY" -m bench.jpegs || exit
exec "$PY" -m bench.gpu --name first --seconds "${LIMIT:-200}" --out "${OUT:-bench/results}" \
  --device "${DEVICE:-cuda}" ${SMALL:+--small} ${COMMIT:+--commit "$COMMIT"} "$@" <<'EOF'
# seconds | name | command | flags of a small run
30 | floor         | -m bench.floor | --side 64 --bytes 100000
60 | tests-kernels | -m pytest -m gpu -v -p no:cacheprovider --tb=short tests/kernels/test_view_kernel.py tests/kernels/test_loss_kernel.py tests/engine/test_step.py::test_recorded_steps_equal_eager_ones |
90 | epochs        | -m bench.epochs --epochs 3 --batch-size 128 --runs eager cold --limit 75 | --pictures 16 --img-size 32 --batch-size 4 --limit 0
90 | tests         | -m pytest -m gpu -v -p no:cacheprovider --tb=short tests/engine/test_resident.py tests/test_losses.py tests/test_model.py tests/engine/test_step.py tests/test_train.py tests/study/test_table.py |
EOF
