# Sourced by quickstart.sh, test.sh and campaign.sh: packages that are missing, a Docker Engine that
# answers, and the end of what tests that were cut short have left.
# Never stops an Engine that it did not start, never touches one that already answers.
# shellcheck shell=bash

# dockerd needs about 2 s here; a loaded machine or a big image store needs longer.
ENGINE_START_SECONDS=60
ENGINE_STOP_SECONDS=30

ENGINE_PID=""
ENGINE_LOG=""
ENGINE_BRIDGE_WAS_THERE=""

step() { printf '== %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

require_root() {
    [ "$(id -u)" -eq 0 ] || die "run this as root: it installs packages and starts containers"
}

# install_packages NAME...: those that dpkg does not know as installed. The package lists are
# fetched only when the first try fails, because they are old or were never fetched.
install_packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q '^install ok installed$' ||
            missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    step "installing ${missing[*]}"
    apt_install "${missing[@]}" >/dev/null 2>&1 && return 0
    apt-get update -qq </dev/null || die "apt-get update failed"
    apt_install "${missing[@]}" || die "could not install ${missing[*]}"
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" </dev/null
}

# What Rust and the runner need beside Docker. A machine that has the command by another way (a
# vendor's docker, another compiler) keeps it.
install_basics() {
    local wanted=(busybox-static ca-certificates)
    command -v cc >/dev/null || wanted+=(gcc)
    # The static test program and the linker need the C library's development files.
    [ -e /usr/lib/"$(uname -m)"-linux-gnu/libc.a ] || wanted+=(libc6-dev)
    command -v docker >/dev/null && command -v dockerd >/dev/null || wanted+=(docker.io)
    # dockerd programs its networks with these; docker.io only recommends the second.
    command -v ip >/dev/null || wanted+=(iproute2)
    command -v iptables >/dev/null || wanted+=(iptables)
    install_packages "${wanted[@]}"
    command -v cargo >/dev/null || die "no cargo in PATH: install Rust first (https://rustup.rs)"
}

engine_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# ensure_engine LOG_FILE: returns once an Engine answers, started here if need be.
ensure_engine() {
    ENGINE_LOG=$1
    if engine_answers; then return 0; fi
    if [ -d /run/systemd/system ]; then
        step "starting Docker with systemd"
        systemctl start docker >/dev/null 2>&1 || true
        await_engine && return 0
        journalctl -u docker -n 30 --no-pager >&2 || true
        die "Docker did not answer within $ENGINE_START_SECONDS s"
    fi
    # A package that was just installed may have started one through its init script.
    if dockerd_runs && await_engine; then return 0; fi
    step "starting dockerd in the background, log in $ENGINE_LOG"
    if ip link show docker0 >/dev/null 2>&1; then ENGINE_BRIDGE_WAS_THERE=yes; fi
    # The pid file of a dead dockerd stops the next one once its number is in use again.
    dockerd_runs || rm -f /var/run/docker.pid
    # A session of its own: an interrupt on the terminal must not end it before our clean-up has.
    setsid dockerd >"$ENGINE_LOG" 2>&1 </dev/null &
    ENGINE_PID=$!
    await_engine && return 0
    tail -n 30 "$ENGINE_LOG" >&2
    stop_engine_if_started
    die "dockerd did not answer within $ENGINE_START_SECONDS s, its last lines are above"
}

dockerd_runs() { grep -qsx dockerd /proc/[0-9]*/comm; }

await_engine() {
    local end=$((SECONDS + ENGINE_START_SECONDS))
    while [ "$SECONDS" -lt "$end" ]; do
        engine_answers && return 0
        # Ours ended already: nothing to wait for.
        if [ -n "$ENGINE_PID" ] && ! kill -0 "$ENGINE_PID" 2>/dev/null; then return 1; fi
        sleep 0.3
    done
    return 1
}

# Ends the dockerd of ensure_engine by its pid and waits for it. One that was there stays.
stop_engine_if_started() {
    [ -n "$ENGINE_PID" ] || return 0
    local end=$((SECONDS + ENGINE_STOP_SECONDS))
    kill -TERM "$ENGINE_PID" 2>/dev/null || true
    while kill -0 "$ENGINE_PID" 2>/dev/null && [ "$SECONDS" -lt "$end" ]; do sleep 0.2; done
    kill -KILL "$ENGINE_PID" 2>/dev/null || true
    wait "$ENGINE_PID" 2>/dev/null || true
    ENGINE_PID=""
    # dockerd leaves its default bridge behind.
    [ -n "$ENGINE_BRIDGE_WAS_THERE" ] || ip link delete docker0 2>/dev/null || true
}

# end_engines_below DIRECTORY: ends the Engines that tests have left there. They name the directory in
# their arguments, and their containers are children of a process that does.
end_engines_below() {
    local directory=$1 pid named=() children=()
    [ -n "$directory" ] || return 0
    for pid in /proc/[0-9]*; do
        pid=${pid#/proc/}
        [ "$pid" -ne $$ ] || continue
        if tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$directory/"; then
            named+=("$pid")
            mapfile -t -O ${#children[@]} children < <(cat "/proc/$pid"/task/*/children 2>/dev/null | tr ' ' '\n')
        fi
    done
    for pid in "${named[@]}" "${children[@]}"; do
        [ -z "$pid" ] || kill -KILL "$pid" 2>/dev/null || true
    done
}

# unmount_below DIRECTORY: the innermost first. Lazily, and without a look at the mounts themselves: one
# may hang.
unmount_below() {
    [ -n "$1" ] || return 0
    awk -v below="$1/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts | tac |
        xargs -r -n 1 umount --no-canonicalize --lazy
}
