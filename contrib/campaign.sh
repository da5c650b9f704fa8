#!/usr/bin/env bash
# The fault campaign: seeded schedules of faults (the runner killed, the host away, the Engine hung
# or killed, disks full, containers removed, clocks that jump, and more) against the built runner, a
# real Engine and a fake host, as root on Debian 12. Every task must end in exactly one outcome.
#
#   contrib/campaign.sh --seed 1 --runs 1000          the long run
#   contrib/campaign.sh --seed 4711 --runs 1          one schedule again
#   contrib/campaign.sh --show 4711                   what it does, without doing it
#   contrib/campaign.sh --only power-cut --runs 20    one kind of fault
#   --minutes M: begin none after that; --jobs J: so many at a time; --first: stop at the first breach
#
# Prints one line a schedule and a table at the end; the exit code is not 0 if anything was lost,
# wrong, contradicted or left over. Each job has an Engine of its own; the machine's is only asked
# for the test image. Leaves nothing behind. KIT_KEEP=1 keeps the images for the next run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null

# shellcheck source=contrib/engine.sh
source contrib/engine.sh

export KIT_RUN=$$

CAMPAIGN_PID=""
SCRATCH_DIR=""
PREPARED=""

main() {
    local word
    for word in "$@"; do
        case $word in --show) exec cargo test --locked --quiet --test campaign -- "$@" ;; esac
    done
    require_root
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap clean_up EXIT
    SCRATCH_DIR=$(mktemp -d /tmp/river-campaign.XXXXXX)
    install_basics
    install_packages debootstrap
    ensure_engine "$SCRATCH_DIR/dockerd.log"
    [ -n "${KIT_KEEP:-}" ] || PREPARED=yes
    bash tests/images/build.sh
    cargo test --locked --no-run --quiet --test campaign
    export TMPDIR=$SCRATCH_DIR
    # In a process group of its own, so that all of it ends when this script is told to.
    setsid cargo test --locked --quiet --test campaign -- "$@" &
    CAMPAIGN_PID=$!
    wait "$CAMPAIGN_PID"
    CAMPAIGN_PID=""
}

clean_up() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    set +e
    if [ -n "$CAMPAIGN_PID" ]; then
        kill -KILL -- "-$CAMPAIGN_PID" 2>/dev/null
        wait "$CAMPAIGN_PID" 2>/dev/null
    fi
    end_engines_below "$SCRATCH_DIR"
    unmount_below "$SCRATCH_DIR"
    [ -z "$PREPARED" ] || bash tests/images/build.sh remove
    stop_engine_if_started
    [ -z "$SCRATCH_DIR" ] || rm -rf "$SCRATCH_DIR"
    exit "$status"
}

main "$@"
