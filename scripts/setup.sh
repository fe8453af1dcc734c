#!/usr/bin/env bash
# Make .venv with all five packages. Where uv is missing, pip puts it into .tools, which needs
# neither root nor a writable Python.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  uv=$PWD/.tools/bin/uv
  if [ ! -x "$uv" ]; then
    echo "installing uv into .tools" >&2
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
      --target .tools uv >&2
  fi
fi
[ -d .venv ] || echo "making .venv with all that the packages need (some GB, once)" >&2
quiet=--quiet
[ -t 2 ] && quiet=
"$uv" sync $quiet >&2
