#!/bin/sh
# Sees to a Rust toolchain that builds this: rust.sh CARGO. Debian's own, where one is new enough; else it says what to do.
set -eu
cargo=$1
root=$(cd "$(dirname "$0")/.." && pwd)
least=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
command -v "$cargo" >/dev/null && exit 0
packages="rustc-web cargo-web rustfmt-web rust-web-clippy"
sudo=$([ "$(id -u)" = 0 ] || echo sudo)
if command -v apt-get >/dev/null; then
    $sudo apt-get update -q >/dev/null || true
    there=$(apt-cache policy rustc-web 2>/dev/null | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
    if [ -n "$there" ] && dpkg --compare-versions "$there" ge "$least"; then
        echo "installing $packages"
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -q -y --no-install-recommends $packages >/dev/null
        command -v "$cargo" >/dev/null && exit 0
    fi
fi
echo "Rust $least or newer is needed, and no package of this system has it. Install it from https://rustup.rs:" >&2
echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y" >&2
echo "    . \"\$HOME/.cargo/env\"" >&2
exit 1
