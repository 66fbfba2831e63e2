#!/bin/sh
# Rebuilds the demo checkpoint in models/demo: tokenizer, training (resumable: run again after a stop), export, scores.
# Needs the packages of requirements.txt and a C++ compiler; two CPU cores take about two hours, PYTHON names the interpreter.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
export TOKENIZERS_PARALLELISM=false THP_MEM_ALLOC_ENABLE=1 GOMP_SPINCOUNT=0
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=8000000000
mkdir -p build
# The tokenizer is kept; `python -m demo_training.tokenizer --out build/tokenizer.json` makes a new one.
[ -f build/tokenizer.json ] || cp demo/tokenizer.json build/tokenizer.json
"$python" -m demo_training.train --out build "$@"
"$python" -m demo_training.export --out demo
"$python" -m demo_training.evaluate --model demo --per-task 40 --failures build/failures.json
