#!/usr/bin/env bash
# Makes sure that the tests' Python programs (scripts/test-tools.txt) are installed, in a virtual environment that is
# kept between runs, and prints the directory that has them. Tests call it by themselves.
set -euo pipefail
list=$(dirname "$0")/test-tools.txt
: "${SANDPIPER_TEST_TOOLS:=/var/cache/sandpiper/test-tools}"
# A changed list or another Python is another directory.
key=$( (cat "$list"; python3 --version) | sha256sum | cut -c1-16)
directory=$SANDPIPER_TEST_TOOLS/$key
mkdir -p "$SANDPIPER_TEST_TOOLS"
exec 9>"$SANDPIPER_TEST_TOOLS/lock"
flock 9
if [ ! -e "$directory/complete" ]; then
    rm -rf "$directory"
    python3 -m venv "$directory" >&2
    "$directory/bin/pip" install --quiet --disable-pip-version-check --requirement "$list" >&2
    touch "$directory/complete"
fi
printf '%s\n' "$directory/bin"
