#!/usr/bin/env bash
# Build an environment that serves with SGLang on a CPU; does nothing if it is ready.
# usage: setup.sh VENV [PYTHON]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${1:?usage: setup.sh VENV [PYTHON]}
[ -e "$venv/.ready" ] && exit 0
"${2:-python3}" -m venv "$venv"
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
install torch==2.13.0
install -r "$here/requirements.txt"
install --no-deps sglang==0.5.23 triton==3.9.0 xgrammar==0.2.7 sglang-router==0.3.2
packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
cp -r "$here/shims/torchvision" "$here/shims/vllm" "$packages/"
"$venv/bin/python" -c 'import sglang.srt.entrypoints.http_server' 2>/dev/null
touch "$venv/.ready"
