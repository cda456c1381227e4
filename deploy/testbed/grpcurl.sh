#!/bin/sh
# Make grpcurl available and print its path. Idempotent; needs Go, and a module proxy the first time (about a minute).
set -eu
bin="${HEIMDALL_TESTBED_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/heimdall-testbed}/bin"
if [ ! -x "$bin/grpcurl" ]; then
    command -v go >/dev/null || { echo "grpcurl.sh: needs Go (https://go.dev) on the PATH" >&2; exit 1; }
    mkdir -p "$bin"
    draft=$(mktemp -d "$bin/.grpcurl.XXXXXX")
    trap 'rm -rf "$draft"' EXIT
    # From a folder without a module, so that nobody's go.mod takes part; moved in whole, so that two may run at once.
    (cd "$draft" && GOBIN="$draft" GOTOOLCHAIN=local GOFLAGS=-buildvcs=false \
        go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3) >&2
    mv "$draft/grpcurl" "$bin/grpcurl"
fi
echo "$bin/grpcurl"
