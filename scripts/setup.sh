#!/usr/bin/env bash
# Installs what Sandpiper needs on a Debian machine: `setup.sh run` for running it, `setup.sh test` for
# the tests as well. Does nothing, and asks no package mirror anything, when all of it is already there.
set -euo pipefail

# The last makes every name below `localhost` this machine's own: ports of sandboxes have such names.
run_packages=(nftables iproute2 mmdebstrap e2fsprogs ca-certificates libc-bin kmod libnss-myhostname)
build_packages=(build-essential pkg-config)
test_packages=(curl openssl postgresql python3 python3-venv chromium chromium-driver fonts-dejavu-core xfsprogs
    libfaketime)
# QEMU below 8.2 lacks what sandboxes need (docs/adr/0002), and 10 starts processes in a guest four times quicker.
qemu_packages=(qemu-system-x86 qemu-utils)
qemu_at_least=8.2

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

missing() {
    local package
    for package in "$@"; do installed "$package" || printf '%s\n' "$package"; done
}

version_of() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null | sed 's/^[0-9]*://'; }

qemu_is_current() {
    local package
    for package in "${qemu_packages[@]}"; do
        installed "$package" || return 1
        dpkg --compare-versions "$(version_of "$package")" ge "$qemu_at_least" || return 1
    done
}

updated=no
update_lists() {
    [ "$updated" = no ] || return 0
    say "reading the package lists"
    apt-get update -qq -o DPkg::Lock::Timeout=120
    updated=yes
}

install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@" >&2
}

candidate() { apt-cache policy "$1" | sed -n 's/^ *Candidate: \([0-9]*:\)\?//p'; }

# The address of the suite's mirror, as this machine's own apt configuration has it.
mirror_of() {
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' | sed -n "s/^$1 //p" | head -n 1
}

# Adds the backports suite for the QEMU packages alone: everything else there stays below the installed release.
add_backports() {
    local codename=$1 mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mirror=$(mirror_of "$codename")
    [ -n "$mirror" ] || die "apt knows no mirror for $codename; add one to /etc/apt/sources.list.d and run this again"
    [ -e "$keyring" ] || install debian-archive-keyring
    cat >/etc/apt/sources.list.d/sandpiper-backports.sources <<EOF
Types: deb
URIs: $mirror
Suites: $codename-backports
Components: main
Signed-By: $keyring
EOF
    cat >/etc/apt/preferences.d/sandpiper-backports <<EOF
Package: *
Pin: release n=$codename-backports
Pin-Priority: 1

Package: qemu-* libslirp0 seabios ipxe-qemu
Pin: release n=$codename-backports
Pin-Priority: 990
EOF
    updated=no
    update_lists
}

install_qemu() {
    if qemu_is_current; then return; fi
    update_lists
    local offered
    offered=$(candidate qemu-system-x86)
    if ! dpkg --compare-versions "${offered:-0}" ge "$qemu_at_least"; then
        . /etc/os-release
        [ "${ID:-}" = debian ] || die "this system offers QEMU ${offered:-none}; Sandpiper needs $qemu_at_least or newer"
        say "this release offers QEMU ${offered:-none}: taking it from $VERSION_CODENAME-backports"
        add_backports "$VERSION_CODENAME"
    fi
    say "installing QEMU $(candidate qemu-system-x86)"
    install "${qemu_packages[@]}"
    qemu_is_current || die "QEMU is still older than $qemu_at_least after installing it"
}

install_missing() {
    local packages
    mapfile -t packages < <(missing "$@")
    [ "${#packages[@]}" -gt 0 ] || return 0
    update_lists
    say "installing ${packages[*]}"
    install "${packages[@]}"
}

[ "$(id -u)" = 0 ] || die "run this as root: it installs packages"
command -v apt-get >/dev/null || die "this is not a Debian-like system; install QEMU $qemu_at_least or newer, ${run_packages[*]} by hand"

case "${1:-}" in
run) install_missing "${run_packages[@]}"; install_qemu ;;
build) install_missing "${build_packages[@]}" ;;
test)
    install_missing "${run_packages[@]}" "${build_packages[@]}" "${test_packages[@]}"
    # Some machines have one that is no package.
    command -v npm >/dev/null || install_missing npm
    install_qemu
    ;;
*) die "usage: setup.sh run|build|test" ;;
esac
