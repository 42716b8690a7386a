#!/usr/bin/env bash
# Makes sure that the published `wrenn` SDK (scripts/wrenn-sdk.txt) is installed with a Python that it runs on, and
# prints the program that runs it. Debian 12 has an older Python, so one comes from a Debian 13 root that mmdebstrap
# makes; it is kept between runs. Tests call this by themselves.
set -euo pipefail
list=$(dirname "$0")/wrenn-sdk.txt
suite=trixie
: "${SANDPIPER_TEST_TOOLS:=/var/cache/sandpiper/test-tools}"
# A changed list or a changed recipe is another directory.
key=$(cat "$list" "$0" | sha256sum | cut -c1-16)
directory=$SANDPIPER_TEST_TOOLS/wrenn-$key
mkdir -p "$SANDPIPER_TEST_TOOLS"
exec 9>"$SANDPIPER_TEST_TOOLS/wrenn.lock"
flock 9

die() { printf 'wrenn-sdk: %s\n' "$*" >&2; exit 1; }

# The address of this release's mirror, as this machine's own apt configuration has it: the next release is there too.
mirror() {
    . /etc/os-release
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' |
        sed -n "s/^$VERSION_CODENAME //p" | head -n 1
}

build() {
    local root=$directory/root mirror
    mirror=$(mirror)
    [ -n "$mirror" ] || die "apt knows no mirror for this release"
    rm -rf "$directory"
    mkdir -p "$directory"
    mmdebstrap --quiet --variant=extract --include=python3-minimal,python3,libpython3-stdlib,libc6,libnss-myhostname \
        --keyring=/usr/share/keyrings "$suite" "$root" "deb $mirror $suite main" >&2
    python3 -m venv "$directory/installer" >&2
    "$directory/installer/bin/pip" install --quiet --disable-pip-version-check --target "$directory/packages" \
        --python-version 3.13 --implementation cp --only-binary :all: \
        --ignore-requires-python --requirement "$list" >&2
    rm -rf "$directory/installer"
    # Started by its own loader: nothing of it has to be installed on this machine.
    cat >"$directory/python" <<PROGRAM
#!/bin/sh
root=$root
PYTHONHOME=\$root/usr PYTHONPATH=$directory/packages PYTHONDONTWRITEBYTECODE=1 \\
    exec "\$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "\$root/usr/lib/x86_64-linux-gnu" \\
    "\$root/usr/bin/python3.13" "\$@"
PROGRAM
    chmod +x "$directory/python"
    "$directory/python" -c 'import ssl, wrenn' || die "the SDK cannot be loaded"
    touch "$directory/complete"
}

[ -e "$directory/complete" ] || build
printf '%s\n' "$directory/python"
