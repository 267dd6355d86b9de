#!/bin/sh
# Installs locks into the environment of an image: `install.sh LOCK…`. The settings of a private
# package index are the secret `index` (lines such as UV_DEFAULT_INDEX=…).
set -eu
set -a
[ ! -f /run/secrets/index ] || . /run/secrets/index
set +a
export UV_COMPILE_BYTECODE_TIMEOUT=0
for lock in "$@"; do
  /opt/installer/bin/uv --quiet --config-file /opt/installer/uv.toml pip install -r "$lock"
done
