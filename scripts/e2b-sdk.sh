#!/usr/bin/env bash
# Makes sure that the published E2B SDK (scripts/e2b-sdk.txt) is installed, in a virtual environment that is kept between
# runs, and prints the program that runs it. Tests call this by themselves.
set -euo pipefail
list=$(dirname "$0")/e2b-sdk.txt
: "${SANDPIPER_TEST_TOOLS:=/var/cache/sandpiper/test-tools}"
# A changed list or another Python is another directory.
key=$( (cat "$list"; python3 --version) | sha256sum | cut -c1-16)
directory=$SANDPIPER_TEST_TOOLS/e2b-$key
mkdir -p "$SANDPIPER_TEST_TOOLS"
exec 9>"$SANDPIPER_TEST_TOOLS/e2b.lock"
flock 9
if [ ! -e "$directory/complete" ]; then
    rm -rf "$directory"
    python3 -m venv "$directory" >&2
    "$directory/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --requirement "$list" >&2
    "$directory/bin/python" -c 'import e2b' >&2
    touch "$directory/complete"
fi
printf '%s\n' "$directory/bin/python"
