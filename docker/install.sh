#!/bin/sh
# Installs locks into the environment of an image: `install.sh LOCK…`; with ONLY, an expression, the
# packages whose names it matches. The settings of a private package index are the secret `index`
# (lines such as UV_DEFAULT_INDEX=…).
set -eu
set -a
[ ! -f /run/secrets/index ] || . /run/secrets/index
set +a
export UV_COMPILE_BYTECODE_TIMEOUT=0
for lock in "$@"; do
  # A package is a line that begins with its name, and the indented lines of its hashes.
  awk -v only="${ONLY:-.}" '/^[^ ]/ {kept = $0 ~ only} kept' "$lock" |
    /opt/installer/bin/uv --quiet --config-file /opt/installer/uv.toml pip install -r -
done
