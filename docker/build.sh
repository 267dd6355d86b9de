#!/usr/bin/env bash
# Builds images and loads them into the cluster: `docker/build.sh [NAME…]`; without a name, all of them.
#
# With Docker the images are built by it and loaded into kind if a kind cluster runs; without Docker,
# k8s/local-cluster builds the same Dockerfile. The environment sets TAG, BASE_MODEL (image or volume),
# PYTHON (default .venv/bin/python) and INDEX, a file with the settings of a private package index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tag=${TAG:-$(awk '/^appVersion:/ {print $2}' charts/Chart.yaml)}
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || { echo "docker/build.sh: .venv is missing; run \`make setup\`" >&2; exit 1; }

build() { # build NAME KIND LOCK ADAPTERS MISSION GPU_MEMORY, as `python -m docker.images` prints them
  local name=$1 image=localhost/bem-fleet/$1:$tag options
  options=(-f docker/Dockerfile --build-arg "SERVICE=$name" --build-arg "KIND=$2" --build-arg "LOCK=$3"
    --build-arg "ADAPTERS=$4" --build-arg "MISSION=$5" --build-arg "GPU_MEMORY=$6" --build-arg "VERSION=$tag"
    --build-arg "BASE_MODEL=${BASE_MODEL:-image}")
  [ "$name" != redis ] || options+=(--target redis)
  [ -z "${INDEX:-}" ] || options+=(--secret "id=index,src=$INDEX")
  if docker info >/dev/null 2>&1; then
    docker build -q "${options[@]}" -t "$image" .
    if command -v kind >/dev/null && kind get clusters | grep -qx bem-fleet; then
      kind load docker-image --name bem-fleet "$image"
    fi
    return
  fi
  # uv's cache of this machine saves downloads.
  local cache; cache=$(command -v uv >/dev/null && uv cache dir || true)
  [ -d "$cache" ] && options+=(-v "$cache:/var/cache/uv")
  k8s/local-cluster/cluster image "$image" "${options[@]}"
}

lines=$(PYTHONPATH=libs:. "$python" -m docker.images "$@")
while read -r -u 3 -a words; do build "${words[@]}"; done 3<<<"$lines"
