#!/usr/bin/env bash
# All tests, in groups whose times are printed. `test.sh quick` leaves out those that boot virtual machines or build
# templates.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-all}
: "${CARGO_TARGET_DIR:=$PWD/target}"
# Templates for the tests are built once and kept; a changed recipe builds them again.
: "${SANDPIPER_TEST_TEMPLATES:=/var/cache/sandpiper/templates}"
export CARGO_TARGET_DIR SANDPIPER_TEST_TEMPLATES
sandpiper=$CARGO_TARGET_DIR/release/sandpiper

times=()
group() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    times+=("$(printf '%5d s  %s' $((SECONDS - start)) "$name")")
}

nextest() { cargo nextest run --release --locked --workspace --no-tests fail "$@"; }

install_nextest() {
    cargo nextest --version >/dev/null 2>&1 || cargo install --locked cargo-nextest
}

style() {
    cargo fmt --all --check
    cargo clippy --release --locked --workspace --all-targets --quiet -- -D warnings
}

templates() { "$sandpiper" template build --data-dir "$SANDPIPER_TEST_TEMPLATES" minimal minimal-ubuntu python311 \
    code-runner-beta base; }

group 'packages' scripts/setup.sh test
group 'test runner' install_nextest
group 'test tools' scripts/test-tools.sh
group 'build' cargo build --release --locked --workspace --all-targets
group 'format and lints' style
group 'units' nextest -E 'not binary(e2e)'
if [ "$mode" = all ]; then
    group 'documentation examples' cargo test --release --locked --workspace --doc --quiet
    group 'fuzz targets' scripts/fuzz.sh 5
    group 'templates' templates
    group 'end to end, real virtual machines' nextest -E 'binary(e2e)'
fi

printf '\n== times\n'
printf '%s\n' "${times[@]}"
