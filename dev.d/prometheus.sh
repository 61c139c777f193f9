# shellcheck shell=bash
# Prometheus and promtool: those in PATH, or Debian's package, unpacked into .stack/dist/ so that no service is
# installed.

ensure_prometheus() {
  local root=$DIST/prometheus work
  if ! { command -v promtool && command -v prometheus; } >/dev/null; then
    if [[ ! -x $root/usr/bin/promtool ]]; then
      say "fetching Prometheus"
      work=$(mktemp -d "$DIST/.prometheus.XXXXXX")
      (cd "$work" && { apt-get download prometheus || { apt_as_root update && apt-get download prometheus; }; } &&
        dpkg -x prometheus_*.deb tree) >"$LOG/fetch-prometheus.log" 2>&1 || {
        rm -rf -- "$work"
        die "Prometheus cannot be fetched as a Debian package (see $LOG/fetch-prometheus.log)" \
          "put prometheus and promtool into PATH"
      }
      mv "$work/tree" "$root"
      rm -rf -- "$work"
    fi
    PATH=$root/usr/bin:$PATH
  fi
}
