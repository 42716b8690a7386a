#!/usr/bin/env bash
# Shows the whole path: a server is started, a sandbox is created through its REST API, and Python runs inside a
# microVM. Leaves nothing behind but the built template, so that the next time is quicker.
set -euo pipefail
sandpiper=$1
data_dir=${SANDPIPER_DATA_DIR:-/var/lib/sandpiper}
work=$(mktemp -d)
server=
sandbox=

milliseconds() { date +%s%3N; }
begin=$(milliseconds)
last=$begin
step() {
    local now
    now=$(milliseconds)
    printf '%7d ms  %s\n' $((now - last)) "$1"
    last=$now
}

cleanup() {
    local status=$?
    if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
        [ -z "$sandbox" ] || curl -sS -o /dev/null -X DELETE "$url/v1/sandboxes/$sandbox" || true
        kill -TERM "$server"
        wait "$server" || true
    fi
    [ "$status" = 0 ] || { echo "the demo failed; the server said:" >&2; tail -n 40 "$work/server.log" >&2 || true; }
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# A member of a flat JSON object, without a JSON parser on the machine.
member() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

"$sandpiper" template build --data-dir "$data_dir" python311
step 'template python311 is built'

: >"$work/server.log"
"$sandpiper" up --data-dir "$data_dir" --listen 127.0.0.1:0 --on-exit destroy --templates python311 2>"$work/server.log" &
server=$!
url=
while [ -z "$url" ]; do
    kill -0 "$server" 2>/dev/null || exit 1
    url=$(sed -n 's/.*ready at \(http:[^ ]*\).*/\1/p' "$work/server.log")
    [ -n "$url" ] || sleep 0.05
done
curl -sSf -o /dev/null "$url/health"
step "server is ready at $url"

created=$(curl -sSf -X POST "$url/v1/sandboxes" -H 'Content-Type: application/json' -d '{"template":"python311"}')
sandbox=$(member id <<<"$created")
step "sandbox $sandbox is running"

cat >"$work/exec.json" <<'EOF'
{"cmd":"python3","args":["-c","import platform; print('kernel', platform.release()); print('sum of squares below 1000:', sum(n * n for n in range(1000)))"]}
EOF
curl -sSf -X POST "$url/v1/sandboxes/$sandbox/exec" -H 'Content-Type: application/json' -d @"$work/exec.json" >"$work/result.json"
step 'Python has run'
printf '%b' "$(member stdout <"$work/result.json")" | sed 's/^/            | /'
grep -q '"exit_code":0' "$work/result.json"
grep -q 'sum of squares below 1000: 332833500' "$work/result.json"

curl -sSf -o /dev/null -X DELETE "$url/v1/sandboxes/$sandbox"
sandbox=
step 'sandbox is deleted'
kill -TERM "$server"
wait "$server"
server=
step 'server has stopped'
printf '%7d ms  in all\n' $(($(milliseconds) - begin))
