#!/usr/bin/env bash
# Everything that a GPU should confirm, in at most eight minutes.
#
#   benchmarks/gpu/run.sh                          all parts, most telling first
#   benchmarks/gpu/run.sh decode train             these parts
#   benchmarks/gpu/run.sh --only '^lora' train     lines that the expression matches
#   benchmarks/gpu/run.sh --layers 4 train         a network of 4 layers of these sizes
#   JAX_PLATFORMS=cpu benchmarks/gpu/run.sh --tiny    a rehearsal without a GPU
#
# PYTHON is the interpreter (default python3), OUT the file of results (default
# benchmarks/results/gpu.json; of a rehearsal a file in the system's folder for such),
# LIMIT the seconds of the whole run. docs/accelerators.md says what has to be installed. Each part is a process of its own, because libraries
# keep the memory that they took; each line is in the file before the next is measured, so
# the run may be cut short at any time.
set -u
cd "$(dirname "$0")/../.."
options=()
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --tiny) options+=(--tiny); shift ;;
    --layers|--only) options+=("$1" "$2"); shift 2 ;;
    *) echo "$1 is no option; --tiny, --layers N and --only EXPRESSION are." >&2; exit 2 ;;
  esac
done
[ -n "${OUT:-}" ] && options+=(--out "$OUT")
parts=("$@")
if [ ${#parts[@]} = 0 ]; then
  parts=(ceilings parity train transformers_train decode transformers_decode
         keras_hub_decode first_token attention weights profile)
fi
# The largest steps need nearly all of the memory.
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
export KERAS_BACKEND=jax PYTHONUNBUFFERED=1 TF_CPP_MIN_LOG_LEVEL=3
export PYTHONPATH="$PWD:$PWD/benchmarks:$PWD/benchmarks/gpu${PYTHONPATH:+:$PYTHONPATH}"
limit=${LIMIT:-470}
for part in "${parts[@]}"; do
  left=$((limit - SECONDS))
  if [ "$left" -lt 15 ]; then echo "$part: no time left"; continue; fi
  timeout "$left" "${PYTHON:-python3}" -m measure "$part" "${options[@]}" \
    || echo "$part: ended with $? after $SECONDS s"
done
"${PYTHON:-python3}" -m measure table "${options[@]}"
