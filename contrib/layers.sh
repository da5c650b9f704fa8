#!/usr/bin/env bash
# Stops and restores of a VPS across the Engine's own limit of layers; too long for every test run
# (some minutes). First it shows where that limit is, by commits without the runner; then the test of
# the same name goes past it with the largest `snapshot_layers_max` there is, or with $1.
#
#   contrib/layers.sh [LAYERS_MAX]
#
# Needs an Engine and the test images (`bash tests/images/build.sh`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BASE=127.0.0.1:1/river-test/busybox:latest
NAME=river-layers-$$
LAYERS_MAX=${1:-120}
CYCLES=130

main() {
    trap clean_up EXIT
    engine_limit
    KIT_CYCLES=$CYCLES KIT_LAYERS_MAX=$LAYERS_MAX cargo test --locked --test it -- \
        snapshots::layers::stops_and_restores_stay_below_the_limit_of_layers_and_lose_nothing
}

# Each commit is of a container made from the one before.
engine_limit() {
    local image=$BASE layers said
    while :; do
        docker run --name "$NAME" "$image" sh -c 'date +%s%N >/root/file' >/dev/null
        if ! said=$(docker commit "$NAME" "$NAME:latest" 2>&1); then
            break
        fi
        docker rm "$NAME" >/dev/null
        image=$NAME:latest
        layers=$(docker image inspect --format '{{len .RootFS.Layers}}' "$image")
        if [ "$layers" -ge 200 ]; then
            echo "the Engine takes 200 layers and more"
            return
        fi
    done
    echo "the Engine takes $layers layers, then says: $said"
}

clean_up() {
    docker rm -f "$NAME" >/dev/null 2>&1 || true
    docker rmi -f "$NAME:latest" >/dev/null 2>&1 || true
}

main
