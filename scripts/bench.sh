#!/usr/bin/env bash
# Starts a server of its own and measures it with `sandpiper bench`; arguments after the binary go to that.
set -euo pipefail
sandpiper=$1
shift
data_dir=${SANDPIPER_DATA_DIR:-/var/lib/sandpiper}
log=$(mktemp)
"$sandpiper" up --data-dir "$data_dir" --listen 127.0.0.1:0 --on-exit destroy \
    --templates "${SANDPIPER_BENCH_TEMPLATE:-minimal}" 2>"$log" &
server=$!
trap 'kill -TERM "$server" 2>/dev/null; wait "$server" 2>/dev/null; rm -f "$log"' EXIT
url=
while [ -z "$url" ]; do
    kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
    url=$(sed -n 's/.*ready at \(http:[^ ]*\).*/\1/p' "$log")
    [ -n "$url" ] || sleep 0.05
done
"$sandpiper" bench "$@" --url "$url"
