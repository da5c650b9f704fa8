#!/usr/bin/env bash
# From a bare Debian 12 with Rust to a task's output, in one command, as root: installs Docker if
# it is missing, builds river-runner, starts it standalone beside whatever runs here, runs one task
# in a tiny image made on the spot, and removes all of that again, except Docker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

# shellcheck source=contrib/engine.sh
source contrib/engine.sh

NODE=river-quickstart-$$
NETWORK=$NODE-net
# Nothing listens on port 1, so looking for a newer image ends at once and the local one is used.
IMAGE=127.0.0.1:1/$NODE
HEALTHY_SECONDS=20

DIR=""
RUNNER_PID=""

main() {
    require_root
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap clean_up EXIT
    DIR=$(mktemp -d /tmp/river-quickstart.XXXXXX)

    install_basics
    ensure_engine /var/log/river-quickstart-dockerd.log
    step "Docker Engine $(docker version --format '{{.Server.Version}}') answers"

    step "building river-runner (the first time takes a minute or two)"
    bash contrib/build.sh
    give_build_to_its_owner

    step "making a tiny image from busybox, without a registry"
    make_image

    PORT=$(free_port)
    step "starting the runner standalone on 127.0.0.1:$PORT"
    start_runner

    step "running a task: river-runner run --image $IMAGE --timings -- ..."
    local code=0
    # shellcheck disable=SC2016 # the container's shell fills these in
    RIVER_URL=http://127.0.0.1:$PORT target/dist/river-runner run --image "$IMAGE" --timings -- \
        sh -c 'echo "hello from container $(hostname), user $(id -un)"; uname -sr' || code=$?
    step "the task ended with exit code $code"

    step "stopping the runner"
    stop_runner || die "the runner did not stop cleanly"
    [ "$code" -eq 0 ] || die "the task failed"
    step "done: river-runner works on this machine"
}

# Built by root in a user's checkout: the user must be able to build again.
give_build_to_its_owner() {
    [ "$(stat -c %u .)" -eq 0 ] || chown -R --reference=. target
}

make_image() {
    local root=$DIR/image applet
    mkdir -p "$root"/{bin,etc,tmp}
    cp /bin/busybox "$root/bin/busybox"
    for applet in sh echo hostname id uname cat ls sleep; do
        ln -s busybox "$root/bin/$applet"
    done
    echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
    tar -C "$root" -c . | docker import --change 'CMD ["sh"]' - "$IMAGE" >/dev/null
}

# A port where nothing answers; away from 8001, where an installed runner would be.
free_port() {
    local port
    for port in {18001..18100}; do
        if ! (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            echo "$port"
            return
        fi
    done
    die "no free port between 18001 and 18100"
}

start_runner() {
    mkdir "$DIR"/{state,shared,local}
    # The Engine chooses addresses that nothing on this machine uses; the runner uses them as they are.
    docker network create "$NETWORK" >/dev/null
    local subnet gateway
    subnet=$(docker network inspect --format '{{(index .IPAM.Config 0).Subnet}}' "$NETWORK")
    gateway=$(docker network inspect --format '{{(index .IPAM.Config 0).Gateway}}' "$NETWORK")
    cat >"$DIR/runner.toml" <<TOML
runner_bind_ip = "127.0.0.1"
runner_port = $PORT
host_address = ""
node_id = "$NODE"
state_dir = "$DIR/state"
shared_dir = "$DIR/shared"
local_temp_dir = "$DIR/local"
api_socket = ""
docker_network_name = "$NETWORK"
docker_network_subnet = "$subnet"
docker_network_gateway = "$gateway"
TOML
    target/dist/river-runner serve --config "$DIR/runner.toml" >"$DIR/runner.log" 2>&1 &
    RUNNER_PID=$!
    local end=$((SECONDS + HEALTHY_SECONDS))
    until healthy 2>/dev/null; do
        if ! kill -0 "$RUNNER_PID" 2>/dev/null || [ "$SECONDS" -ge "$end" ]; then
            tail -n 30 "$DIR/runner.log" >&2
            die "the runner is not healthy, its last lines are above"
        fi
        sleep 0.1
    done
}

# Over bash's own sockets: a bare system has no curl, and busybox's static wget crashes in the
# resolver of some.
healthy() (
    exec 3<>"/dev/tcp/127.0.0.1/$PORT"
    printf 'GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
    read -r -t 5 _ status _ <&3
    [ "$status" = 200 ]
)

stop_runner() {
    local pid=$RUNNER_PID
    RUNNER_PID=""
    kill -TERM "$pid" && wait "$pid"
}

clean_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    set +e
    if [ -n "$RUNNER_PID" ]; then
        kill -KILL "$RUNNER_PID" 2>/dev/null
        wait "$RUNNER_PID" 2>/dev/null
    fi
    # A failed start may have come before there was a docker to ask.
    if command -v docker >/dev/null && engine_answers; then
        docker ps --all --quiet --filter "label=kohakuriver.node=$NODE" |
            xargs -r docker rm --force --volumes >/dev/null 2>&1
        docker network rm "$NETWORK" >/dev/null 2>&1
        docker image rm --force "$IMAGE" >/dev/null 2>&1
    fi
    [ -z "$DIR" ] || rm -rf "$DIR"
    if [ -n "$ENGINE_PID" ]; then
        step "dockerd goes on in the background (end it with: kill $ENGINE_PID; log: $ENGINE_LOG)"
    fi
    exit "$status"
}

main "$@"
