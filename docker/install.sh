#!/bin/sh
# Installs locks into an image's environment: `install.sh LOCK…`. A private package index comes as
# the secret `index` (lines such as UV_DEFAULT_INDEX=…).
set -eu
set -a
[ ! -f /run/secrets/index ] || . /run/secrets/index
set +a
export UV_COMPILE_BYTECODE_TIMEOUT=0
for lock in "$@"; do
  /opt/installer/bin/uv --quiet --config-file /opt/installer/uv.toml pip install -r "$lock"
done
