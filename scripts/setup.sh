#!/usr/bin/env bash
# Make .venv with all five packages. Where uv is missing, pip puts it into .tools, which needs
# neither root nor a writable Python. Prints the path of uv as its last line.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  uv=$PWD/.tools/bin/uv
  if [ ! -x "$uv" ]; then
    echo "installing uv into .tools" >&2
    python3 -m pip install --quiet --target .tools uv >&2
  fi
fi
"$uv" sync --quiet >&2
echo "$uv"
