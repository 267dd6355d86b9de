#!/usr/bin/env bash
# Builds images and loads them into the cluster: `docker/build.sh [NAME…]`; without a name, all of them.
#
# With Docker the images are built by it and loaded into kind if a kind cluster runs; without Docker,
# k8s/local-cluster builds the same Dockerfile. The environment sets TAG, BASE_MODEL (image or volume),
# PYTHON (default .venv/bin/python) and INDEX, a file with the settings of a private package index.
# DIGESTS (default .cache/images) is a folder: its digests.yaml pins each image to its digest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tag=${TAG:-$(awk '/^appVersion:/ {print $2}' charts/Chart.yaml)}
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || { echo "docker/build.sh: .venv is missing; run \`make setup\`" >&2; exit 1; }

digests=${DIGESTS:-.cache/images}
mkdir -p "$digests"

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
    # Docker knows a digest where it has a containerd store, or after a push.
    docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" |
      sed -n '1s/.*@//p' >"$digests/$name"
    [ -s "$digests/$name" ] || rm "$digests/$name"
    return
  fi
  # uv's cache of this machine saves downloads.
  local cache; cache=$(command -v uv >/dev/null && uv cache dir || true)
  [ -d "$cache" ] && options+=(-v "$cache:/var/cache/uv")
  k8s/local-cluster/cluster image "$image" "${options[@]}" >"$digests/.$name"
  mv "$digests/.$name" "$digests/$name"
}

each() { # each LINES
  while read -r -u 3 -a words; do build "${words[@]}"; done 3<<<"$1"
}

# Two small images make the stages that all share; then models and the rest are built side by side.
lines=$(PYTHONPATH=libs:. "$python" -m docker.images "$@")
jobs=() failed=0
small=$(grep -E '^(redis|gateway) ' <<<"$lines" || true)
[ -z "$small" ] || each "$small"
for kind in model control; do
  some=$(grep -vE '^(redis|gateway) ' <<<"$lines" | grep " $kind " || true)
  [ -z "$some" ] || { each "$some" & jobs+=($!); }
done
for job in "${jobs[@]}"; do wait "$job" || failed=1; done
[ "$failed" = 0 ] || exit 1
PYTHONPATH=libs:. "$python" -m docker.digests "$digests" >"$digests/digests.yaml"
