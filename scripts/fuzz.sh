#!/usr/bin/env bash
# Runs every fuzz target for so many seconds, from the inputs that are kept in fuzz/corpus: `fuzz.sh 5`. With `keep` as
# well, what reaches something new is added to those; else it is forgotten. A finding is left in fuzz/artifacts, and its target
# takes it as an argument.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: fuzz.sh SECONDS [keep]}
: "${CARGO_TARGET_DIR:=$PWD/target}"
built=$CARGO_TARGET_DIR/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')

cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
# Nothing here is unsafe but what other tests see to: coverage is all that is asked of the compiler, and any will do.
(cd fuzz && cargo fuzz build --fuzz-dir . --sanitizer none --target-dir "$built")

found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
for source in fuzz/targets/*.rs; do
    target=$(basename "$source" .rs)
    corpus=fuzz/corpus/$target
    new=$found/$target
    [ "${2:-}" != keep ] || new=$corpus
    mkdir -p "$new" "fuzz/artifacts/$target"
    printf 'fuzz: %s, %d inputs, %d s\n' "$target" "$(find "$corpus" -type f | wc -l)" "$seconds"
    ended=0
    "$built/$host/release/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=65536 \
        -print_final_stats=1 -verbosity=0 -artifact_prefix="fuzz/artifacts/$target/" "$new" "$corpus" \
        >"$found/log" 2>&1 || ended=$?
    grep -E 'number_of_executed_units|new_units_added|average' "$found/log" || true
    if [ "$ended" != 0 ]; then
        tail -n 40 "$found/log" >&2
        printf 'fuzz: %s found something: see fuzz/artifacts/%s\n' "$target" "$target" >&2
        exit 1
    fi
done
