#!/usr/bin/env bash
# Where calls go, on two real replicas: SGLang's own ways and ours on the same traces, in turn.
#
#   bench/replicas.sh OUT        takes a quarter of an hour; a repeated command goes on where it was
#
# The rates are about 0.9 of what two replicas of one core each finish with calls going round robin.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly out=${1:?"usage: bench/replicas.sh OUT"}
readonly python=${PYTHON:-.venv/bin/python}
readonly systems=dp-program-radix,dp-round_robin,dp-total_requests

compare() {
    local workload=$1 programs=$2 rate=$3 scale=$4
    "$python" -m bench.run --systems "$systems" --seed 1,2 --out "$out/$workload" \
        --workload "$workload" --programs "$programs" --rate "$rate" --scale "$scale" -- --dp-size 2
    for baseline in dp-round_robin dp-total_requests; do
        "$python" -m bench.report "$out/$workload" --baseline "$baseline" --no-figures \
            --out "$out/$workload/over-$baseline"
    done
}

compare chat 40 1 0.1
compare mcts 12 0.3 0.05
