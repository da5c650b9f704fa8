#!/usr/bin/env bash
# Builds the images that the integration tests run in, without a registry: from busybox-static, the
# C compiler and Debian's packages (from the mirror this machine's apt uses). Called by
# contrib/test.sh; by hand: `bash tests/images/build.sh`, and `... build.sh remove` to undo it.
#
# What is slow (the Debian root) is cached in target/test-images; an image whose recipe has not
# changed since (label river.test.recipe) is left alone.
set -euo pipefail

# Nothing listens on port 1: a pull of these names fails at once and never leaves this machine.
PREFIX=127.0.0.1:1/river-test/
# In this order: some are made from those before them.
NAMES=(busybox debian debian-numeric debian-repo debian-ssh debian-worker entrypoint scratch)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=$here/../../target/test-images
# The legacy builder is enough, and needs no plugin that a plain docker.io lacks.
export DOCKER_BUILDKIT=0

main() {
    if [ "${1:-}" = remove ]; then
        remove
        return
    fi
    mkdir -p "$cache"
    debian_rootfs
    local recipe name
    recipe=$(recipe_hash)
    for name in "${NAMES[@]}"; do build "$name" "$recipe"; done
}

# One hash for all: a changed busybox, script or recipe rebuilds everything (a few seconds).
recipe_hash() {
    {
        find "$here" -type f | LC_ALL=C sort | xargs cat
        cat /bin/busybox
    } | sha256sum | cut -c1-16
}

build() {
    local name=$1 recipe=$2 have context
    have=$(docker image inspect --format '{{index .Config.Labels "river.test.recipe"}}' \
        "$PREFIX$name" 2>/dev/null || true)
    [ "$have" != "$recipe" ] || return 0
    context=$(mktemp -d "$cache/context.XXXXXX")
    cp -a "$here/$name/." "$context"
    case $name in
        busybox) busybox_rootfs "$context/rootfs" ;;
        # A hard link: the archive is big and only read.
        debian) ln "$cache/debian.tar" "$context/rootfs.tar" ;;
        debian-repo) cp -a "$cache/repository" "$context" ;;
        scratch) cc -O2 -static -o "$context/hello" "$context/hello.c" ;;
    esac
    docker build --quiet --build-arg "PREFIX=$PREFIX" --label "river.test.recipe=$recipe" \
        --tag "$PREFIX$name" "$context" >/dev/null 2>"$cache/build.log" ||
        { cat "$cache/build.log" >&2; return 1; }
    rm -rf "$context"
}

busybox_rootfs() {
    local root=$1 applet
    mkdir -p "$root"/{bin,etc,dev,proc,sys,root,home/worker,tmp,var/tmp}
    chmod 1777 "$root/tmp" "$root/var/tmp"
    cp /bin/busybox "$root/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nworker:x:4321:4321::/home/worker:/bin/sh\n' \
        >"$root/etc/passwd"
    printf 'root:x:0:\nworker:x:4321:\n' >"$root/etc/group"
}

# A minimal Debian as a tar in the cache. debootstrap takes half a minute, so it runs once.
debian_rootfs() {
    local made_by root mirror
    made_by=$(sha256sum <"${BASH_SOURCE[0]}")
    if [ "$(cat "$cache/debian.made_by" 2>/dev/null)" = "$made_by" ]; then return; fi
    # shellcheck disable=SC2016 # apt fills this in, not the shell
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' \
        'Codename: bookworm' 'Label: Debian' 'Component: main' | head -n 1)
    if [ -z "$mirror" ]; then
        echo "apt knows no mirror of Debian bookworm: check its sources, run apt-get update" >&2
        return 1
    fi
    root=$(mktemp -d "$cache/debian.XXXXXX")
    debootstrap --variant=minbase bookworm "$root" "$mirror" >"$cache/debootstrap.log" 2>&1 ||
        { tail -n 20 "$cache/debootstrap.log" >&2; rm -rf "$root"; return 1; }
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
        "$root"/usr/share/{doc,man,info,locale}/* "${root:?}"/dev/*
    # Its own numbers, which no machine's /etc/passwd has: a lookup outside the image shows.
    echo 'worker:x:4321:4321::/home/worker:/bin/bash' >>"$root/etc/passwd"
    echo 'worker:x:4321:' >>"$root/etc/group"
    mkdir -p "$root/home/worker"
    chown 4321:4321 "$root/home/worker"
    rm -f "$cache/debian.made_by"
    ssh_repository "$root"
    tar -C "$root" --numeric-owner -cf "$cache/debian.tar" .
    rm -rf "$root"
    echo "$made_by" >"$cache/debian.made_by"
}

# The packages that an sshd in the Debian root needs, as a repository of files. apt takes this
# machine's sources, and the root's list of what is installed.
ssh_repository() {
    local root=$1 deb
    rm -rf "$cache/repository"
    mkdir -p "$cache/repository/partial"
    apt-get -q -y --no-install-recommends --download-only -o APT::Sandbox::User=root \
        -o Debug::NoLocking=1 -o "Dir::State::Status=$root/var/lib/dpkg/status" \
        -o "Dir::Cache::Archives=$cache/repository" install openssh-server \
        >"$cache/repository.log" 2>&1 || { tail -n 20 "$cache/repository.log" >&2; return 1; }
    rm -rf "$cache/repository/partial" "$cache/repository/lock"
    (
        cd "$cache/repository"
        for deb in *.deb; do
            dpkg-deb --field "$deb"
            printf 'Filename: ./%s\nSize: %s\n' "$deb" "$(stat -c %s "$deb")"
            printf 'SHA256: %s\n\n' "$(sha256sum "$deb" | cut -d ' ' -f 1)"
        done >Packages
    )
}

remove() {
    local name images=()
    for name in "${NAMES[@]}"; do images+=("$PREFIX$name"); done
    docker image rm --force "${images[@]}" >/dev/null 2>&1 || true
}

main "$@"
