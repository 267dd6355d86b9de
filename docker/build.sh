#!/usr/bin/env bash
# Builds images and hands them to the cluster: `docker/build.sh [NAME…]`, all without a name.
#
# With Docker they are built by it and loaded into kind where a kind cluster runs; without, the
# cluster of tests/cluster builds the same Dockerfile. TAG and BASE_MODEL (image or volume) are
# read from the environment; so is INDEX, a file with a private package index's settings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tag=${TAG:-$(awk '/^appVersion:/ {print $2}' charts/Chart.yaml)}

mission_of() { # the seed's labels: mission, and the memory of the GPU that it is given
  case $1 in
    router) echo mission_a 80GB ;;
    online) echo mission_b 24GB ;;
    safety) echo mission_c 24GB ;;
    sep) echo mission_d 80GB ;;
    memory) echo mission_e 80GB ;;
    *) echo none 0GB ;;
  esac
}

kind_of() { # what needs torch is a model image
  if grep -q '^torch==' "requirements/$1.lock"; then echo model; else echo control; fi
}

build() {
  local name=$1 image=localhost/bem-fleet/$1:$tag mission memory options
  read -r mission memory <<<"$(mission_of "$name")"
  options=(-f docker/Dockerfile --build-arg "KIND=$(kind_of "$name")" --build-arg "SERVICE=$name"
    --build-arg "MISSION=$mission" --build-arg "GPU_MEMORY=$memory" --build-arg "VERSION=$tag"
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
  # packages that this machine has unpacked already are not fetched again
  local cache; cache=$(command -v uv >/dev/null && uv cache dir || true)
  [ -d "$cache" ] && options+=(-v "$cache:/var/cache/uv")
  k8s/local-cluster/cluster image "$image" "${options[@]}"
}

[ $# -gt 0 ] || set -- redis $(for main in services/*/__main__.py; do basename "$(dirname "$main")"; done)
for name in "$@"; do build "$name"; done
