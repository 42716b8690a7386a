#!/usr/bin/env bash
# Starts a server of its own and measures it through E2B's published SDKs; arguments after the binary go to
# `sandpiper bench e2b`.
set -euo pipefail
here=$(dirname "$0")
sandpiper=$1
shift
sdk=$("$here/e2b-sdk.sh")
SANDPIPER_BENCH_TEMPLATE=base exec "$here/bench.sh" "$sandpiper" e2b --sdk "$sdk" "$@"
