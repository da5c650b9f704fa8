#!/usr/bin/env bash
# Everything that must hold, in one command, as root on Debian 12: format, lints, docs, unit tests,
# the floor map, doc tests, a quick run of the benches, 30 schedules of the fault campaign, and last
# the integration tests against a real Docker Engine.
#
# Installs what is missing, starts an Engine if none answers and stops that one again, and leaves
# no container, image or network behind. KIT_KEEP=1 keeps the images and the network for the next
# run. The first suite that fails ends it; the last line of a good run is cargo's own summary.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

# shellcheck source=contrib/engine.sh
source contrib/engine.sh

# What this run's containers are called and labelled with, so that another run's are left alone.
export KIT_RUN=$$
PREFIX=river-test-$KIT_RUN-
NETWORK=river-test-net

SUITE_PID=""
SCRATCH_DIR=""
PREPARED=""
PRODUCTION_NETWORK_BEFORE=""

main() {
    require_root
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap clean_up EXIT
    SCRATCH_DIR=$(mktemp -d /tmp/river-test.XXXXXX)

    install_basics
    # Place for QEMU (qemu-system-x86, qemu-utils): no test starts a guest yet.
    install_packages strace debootstrap openssh-client
    ensure_engine "$SCRATCH_DIR/dockerd.log"
    PRODUCTION_NETWORK_BEFORE=$(networks_named kohakuriver-net)
    PREPARED=yes

    suite format cargo fmt --check
    suite clippy cargo clippy --locked --all-targets --quiet -- -D warnings
    suite docs env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
    suite images bash tests/images/build.sh
    suite build cargo test --locked --no-run --quiet
    # All that tests write lies in one directory, which is removed even if they are killed.
    export TMPDIR=$SCRATCH_DIR
    suite unit cargo test --locked --lib --bins
    suite layers cargo test --locked --test layers
    suite doctests cargo test --locked --doc
    # Only that they still run: the tests' own build, few rounds, no figure is judged.
    suite benches cargo bench --locked --profile dev --bench budgets -- --quick
    # A fixed seed: the same schedules each time, so that a new breach is the change's.
    suite campaign cargo test --locked --quiet --test campaign -- --seed 1618 --runs 30 --minutes 4
    # The last one: its seconds are in the summary that cargo ends with.
    step integration
    run cargo test --locked --test it
}

# suite NAME COMMAND...: says the name, and after it the seconds.
suite() {
    local name=$1 begin=$EPOCHREALTIME end
    shift
    step "$name"
    run "$@"
    end=$EPOCHREALTIME
    # Microseconds, whatever the locale's decimal point.
    step "$name: $(((${end/[.,]/} - ${begin/[.,]/}) / 1000)) ms"
}

# In a process group of its own: when this script is told to stop, all of the suite is ended, also
# the runners that a killed test has left. `wait` lets a trap run at once, a plain call does not.
run() {
    setsid "$@" &
    SUITE_PID=$!
    wait "$SUITE_PID"
    SUITE_PID=""
}

clean_up() {
    local status=$? left
    trap - EXIT
    trap '' INT TERM
    set +e
    if [ -n "$SUITE_PID" ]; then
        kill -KILL -- "-$SUITE_PID" 2>/dev/null
        wait "$SUITE_PID" 2>/dev/null
    fi
    if [ -n "$PREPARED" ]; then
        # Tests remove what they make. What one has left is a fault, unless it was cut short.
        left=$(our_containers)
        if [ "$status" -eq 0 ] && [ -n "$left" ]; then
            printf 'error: tests left containers behind:\n%s\n' "$left" >&2
            status=1
        fi
        remove_ours
        left=$(leftovers)
        if [ -n "$left" ]; then
            printf 'error: left behind:\n%s\n' "$left" >&2
            [ "$status" -ne 0 ] || status=1
        fi
    fi
    end_engines_below "$SCRATCH_DIR"
    stop_engine_if_started
    unmount_below "$SCRATCH_DIR"
    [ -z "$SCRATCH_DIR" ] || rm -rf "$SCRATCH_DIR"
    exit "$status"
}

remove_ours() {
    our_containers | xargs -r docker rm --force --volumes >/dev/null 2>&1
    docker images --format '{{.Repository}}:{{.Tag}}' | grep "^kohakuriver/$PREFIX" |
        xargs -r docker image rm --force >/dev/null 2>&1
    networks_prefixed "$PREFIX" | xargs -r docker network rm >/dev/null 2>&1
    [ -z "${KIT_KEEP:-}" ] || return 0
    bash tests/images/build.sh remove
    docker network rm "$NETWORK" >/dev/null 2>&1
}

# What is there although it should not, one a line.
leftovers() {
    our_containers
    networks_prefixed "$PREFIX"
    [ -n "$PRODUCTION_NETWORK_BEFORE" ] || networks_named kohakuriver-net
    [ -z "${KIT_KEEP:-}" ] || return 0
    docker images --format '{{.Repository}}:{{.Tag}}' | grep '/river-test/'
    networks_named "$NETWORK"
}

# By name, and by the label that a test's runner gives to its containers.
our_containers() {
    docker ps --all --format '{{.Names}} {{.Label "kohakuriver.node"}}' |
        awk -v prefix="$PREFIX" 'index($1, prefix) == 1 || index($2, prefix) == 1 { print $1 }'
}

networks_named() {
    docker network ls --format '{{.Name}}' | grep -x -- "$1" || true
}

networks_prefixed() {
    docker network ls --format '{{.Name}}' | grep -- "^$1" || true
}

main "$@"
