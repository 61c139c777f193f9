# shellcheck shell=bash
# Prometheus and promtool: those in PATH, or Debian's package, unpacked into .stack/dist/ so that no service is
# installed.

# Package lists are fetched where there are none yet.
download_prometheus() (
  cd "$1" && { apt-get download prometheus || { apt_as_root update && apt-get download prometheus; }; }
)

fetch_prometheus() {
  [[ ! -x $DIST/prometheus/usr/bin/promtool ]] || return 0
  say "fetching Prometheus"
  local work
  work=$(mktemp -d "$DIST/.prometheus.XXXXXX")
  quietly "fetching Prometheus as a Debian package (prometheus and promtool in PATH would do)" \
    "$LOG/fetch-prometheus.log" download_prometheus "$work"
  dpkg -x "$work"/prometheus_*.deb "$work/tree"
  chmod -R a+rX "$work/tree"
  mv "$work/tree" "$DIST/prometheus"
  rm -rf -- "$work"
}

ensure_prometheus() {
  ! { command -v promtool && command -v prometheus; } >/dev/null || return 0
  with_fetch_lock fetch_prometheus
  PATH=$DIST/prometheus/usr/bin:$PATH
}
