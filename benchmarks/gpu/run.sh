#!/usr/bin/env bash
# Everything that a GPU should confirm, in at most eight minutes.
#
#   benchmarks/gpu/run.sh                          all parts, most telling first
#   benchmarks/gpu/run.sh decode train             these parts
#   JAX_PLATFORMS=cpu benchmarks/gpu/run.sh --tiny    a rehearsal without a GPU
#
# PYTHON is the interpreter (default python3), OUT the file of results (default
# benchmarks/results/gpu.json; of a rehearsal a file in the system's folder for such),
# LIMIT the seconds of the whole run. docs/accelerators.md says what has to be installed. Each part is a process of its own, because libraries
# keep the memory that they took; each line is in the file before the next is measured, so
# the run may be cut short at any time.
set -u
cd "$(dirname "$0")/../.."
tiny=()
if [ "${1:-}" = --tiny ]; then tiny=(--tiny); shift; fi
parts=("$@")
if [ ${#parts[@]} = 0 ]; then
  parts=(ceilings parity attention train decode first_token
         transformers_train transformers_decode keras_hub_decode)
fi
export KERAS_BACKEND=jax PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=3
export PYTHONPATH="$PWD:$PWD/benchmarks:$PWD/benchmarks/gpu${PYTHONPATH:+:$PYTHONPATH}"
limit=${LIMIT:-470}
for part in "${parts[@]}"; do
  left=$((limit - SECONDS))
  if [ "$left" -lt 15 ]; then echo "$part: no time left"; continue; fi
  timeout "$left" "${PYTHON:-python3}" -m measure "$part" "${tiny[@]}" ${OUT:+--out "$OUT"} \
    || echo "$part: ended with $? after $SECONDS s"
done
"${PYTHON:-python3}" -m measure table "${tiny[@]}" ${OUT:+--out "$OUT"}
