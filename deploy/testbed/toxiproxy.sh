#!/bin/sh
# Make toxiproxy-server available and print its path. Idempotent; needs Go, and a module proxy the first time (half a minute).
set -eu
bin="${HEIMDALL_TESTBED_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/heimdall-testbed}/bin"
if [ ! -x "$bin/toxiproxy-server" ]; then
    command -v go >/dev/null || { echo "toxiproxy.sh: needs Go (https://go.dev) on the PATH" >&2; exit 1; }
    mkdir -p "$bin"
    draft=$(mktemp -d "$bin/.toxiproxy.XXXXXX")
    trap 'rm -rf "$draft"' EXIT
    # From a folder without a module, so that nobody's go.mod takes part; moved in whole, so that two may run at once.
    (cd "$draft" && GOBIN="$draft" GOTOOLCHAIN=local GOFLAGS=-buildvcs=false \
        go install github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0) >&2
    mv "$draft/server" "$bin/toxiproxy-server"
fi
echo "$bin/toxiproxy-server"
