#!/usr/bin/env bash
# Measures a control plane on SQLite and on a private PostgreSQL with its usual settings; arguments after the binary go
# to `sandpiper bench control-plane`.
set -euo pipefail
sandpiper=$(realpath "$1")
shift
programs=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
directory=$(mktemp -d)
cd "$directory"
chown postgres "$directory"
as_postgres() { runuser -u postgres -- env LC_ALL=C "$@" >/dev/null; }
clean_up() {
    as_postgres "$programs/pg_ctl" -D "$directory/data" -m immediate stop 2>/dev/null || true
    rm -rf "$directory"
}
trap clean_up EXIT
as_postgres "$programs/initdb" -A trust -U postgres -E UTF8 --locale C -D "$directory/data"
as_postgres "$programs/pg_ctl" -D "$directory/data" -l "$directory/log" -w \
    -o "-c listen_addresses='' -c unix_socket_directories='$directory'" start
"$sandpiper" bench control-plane "$@"
"$sandpiper" bench control-plane --store "postgres://postgres@localhost/postgres?host=$directory" "$@"
