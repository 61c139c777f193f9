# shellcheck shell=bash
# Prometheus and promtool: Debian's package, unpacked into .stack/dist/ so that no service is installed.

# Puts prometheus and promtool into PATH; their absence (another distribution, no network) is said.
ensure_prometheus() {
  local root=$DIST/prometheus work
  command -v promtool >/dev/null && return 0
  if [[ ! -x $root/usr/bin/promtool ]]; then
    say "fetching Prometheus"
    work=$(mktemp -d "$DIST/.prometheus.XXXXXX")
    if ! (cd "$work" && { apt-get download prometheus || { apt_as_root update && apt-get download prometheus; }; } &&
      dpkg -x prometheus_*.deb tree) >"$LOG/fetch-prometheus.log" 2>&1; then
      rm -rf -- "$work"
      say "no Prometheus: its package cannot be fetched (see $LOG/fetch-prometheus.log); what needs it is left out"
      return 1
    fi
    mv "$work/tree" "$root"
    rm -rf -- "$work"
  fi
  PATH=$root/usr/bin:$PATH
}
