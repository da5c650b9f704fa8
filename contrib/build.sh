#!/usr/bin/env bash
# Release binaries, stripped, into target/dist/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

BINARIES=(river-runner)

target=${CARGO_TARGET_DIR:-target}
cargo build --release --locked --bins --quiet
mkdir -p target/dist
for binary in "${BINARIES[@]}"; do
    # A running runner keeps its file: the new one replaces it under the name.
    install -m 0755 "$target/release/$binary" "target/dist/$binary.new"
    mv "target/dist/$binary.new" "target/dist/$binary"
    printf '%s  %s bytes\n' "target/dist/$binary" "$(stat -c %s "target/dist/$binary")"
done
