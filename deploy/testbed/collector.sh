#!/bin/sh
# Make the real OpenTelemetry Collector available and print its path: OTLP and file-log receivers, OTLP exporters over
# gRPC and HTTP, batches, a queue on disk. Idempotent; needs Go, and a module proxy the first time (two or three
# minutes of computing).
set -eu
version=v0.159.0
bin="${HEIMDALL_TESTBED_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/heimdall-testbed}/bin"
if [ ! -x "$bin/otelcol-$version" ]; then
    command -v go >/dev/null || { echo "collector.sh: needs Go (https://go.dev) on the PATH" >&2; exit 1; }
    mkdir -p "$bin"
    draft=$(mktemp -d "$bin/.otelcol.XXXXXX")
    trap 'rm -rf "$draft"' EXIT
    core=go.opentelemetry.io/collector
    contrib=github.com/open-telemetry/opentelemetry-collector-contrib
    cat >"$draft/builder.yaml" <<YAML
dist: {name: otelcol, description: OpenTelemetry Collector of the test bed, version: ${version#v}, output_path: $draft/build}
receivers:
  - gomod: $core/receiver/otlpreceiver $version
  - gomod: $contrib/receiver/filelogreceiver $version
processors:
  - gomod: $core/processor/batchprocessor $version
exporters:
  - gomod: $core/exporter/otlpexporter $version
  - gomod: $core/exporter/otlphttpexporter $version
extensions:
  - gomod: $contrib/extension/storage/filestorage $version
providers:
  - gomod: $core/confmap/provider/envprovider v1.65.0
  - gomod: $core/confmap/provider/fileprovider v1.65.0
  - gomod: $core/confmap/provider/yamlprovider v1.65.0
YAML
    # From a folder without a module, so that nobody's go.mod takes part; moved in whole, so that two may run at once.
    (cd "$draft" && export GOBIN="$draft" GOTOOLCHAIN=local GOFLAGS=-buildvcs=false &&
        go install $core/cmd/builder@$version && ./builder --config builder.yaml) >&2
    mv "$draft/build/otelcol" "$bin/otelcol-$version"
fi
echo "$bin/otelcol-$version"
