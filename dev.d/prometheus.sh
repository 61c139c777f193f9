# shellcheck shell=bash
# Prometheus with promtool, and Alertmanager with amtool: those in PATH, or Debian's packages.
# One Prometheus in one directory: DIR/{prometheus.yml,data,log,pid}, DIR/port chosen once. It scrapes one walferry and
# has the rules of grafana/prometheus/.

# What the pages of Debian's Prometheus are made with; links among its files lead there. Without these it still answers.
readonly PROMETHEUS_PAGES=(fonts-glyphicons-halflings libjs-bootstrap4 libjs-d3 libjs-eonasdan-bootstrap-datetimepicker libjs-jquery
  libjs-jquery-hotkeys libjs-moment libjs-moment-timezone libjs-mustache libjs-popper.js libjs-rickshaw)

arrange_prometheus() {
  local package
  cd ..
  ! download_debian "${PROMETHEUS_PAGES[@]}" || for package in fonts-*.deb libjs-*.deb; do dpkg-deb -x "$package" tree; done
}

# Puts prometheus and promtool into PATH; fails when they are not to be had.
ensure_prometheus() {
  ! { command -v promtool && command -v prometheus; } >/dev/null || return 0
  with_fetch_lock fetch_debian prometheus prometheus arrange_prometheus
  [[ -x $DIST/prometheus/usr/bin/promtool ]] || return 1
  PATH=$DIST/prometheus/usr/bin:$PATH
}

# The program that this writes is alertmanager: Debian's reads templates below /usr/share and nowhere else, so that
# process, and it alone, sees the package's files there.
arrange_alertmanager() {
  mkdir bin && ln -s ../usr/bin/amtool bin/amtool && cat >bin/alertmanager <<'SH' && chmod +x bin/alertmanager
#!/bin/sh
top=$(dirname -- "$(dirname -- "$(readlink -f -- "$0")")")
own=
[ "$(id -u)" = 0 ] || own=--map-root-user
exec unshare --mount $own sh -c 'mount --bind "$0/usr/share" /usr/share && exec "$0/usr/bin/prometheus-alertmanager" "$@"' "$top" "$@"
SH
}

# Puts amtool and alertmanager into PATH; fails when they are not to be had.
ensure_alertmanager() {
  ! { command -v amtool && command -v alertmanager; } >/dev/null || return 0
  with_fetch_lock fetch_debian alertmanager prometheus-alertmanager arrange_alertmanager
  [[ -x $DIST/alertmanager/bin/amtool ]] || return 1
  PATH=$DIST/alertmanager/bin:$PATH
}

prometheus_config() {
  local scraped=$1 rules=$ROOT/grafana/prometheus
  cat <<YAML
# Written by ./dev at each start.
global: {scrape_interval: 1s, evaluation_interval: 5s}
rule_files: ['$rules/alerts.yml', '$rules/recording.yml']
scrape_configs:
  - job_name: walferry
    static_configs: [{targets: ['127.0.0.1:$scraped']}]
YAML
}

# Ready, or ended before it was.
prometheus_settled() {
  process_is_gone "$1/pid" || [[ $(http_get "$(<"$1/port")" /-/ready) == HTTP/1.?\ 200* ]]
}

# prometheus_start DIR PORT: one that scrapes walferry at that port. Ready when it returns; fails when it did not get so.
prometheus_start() {
  local dir=$1 scraped=$2 pages=$DIST/prometheus/usr/share/prometheus/web
  local -a own=()
  mkdir -p -- "$dir"
  dir=$(readlink -f -- "$dir")
  ! running_process "$dir/pid" >/dev/null || return 0
  if [[ ! -f $dir/port ]] || port_answers "$(<"$dir/port")"; then free_port >"$dir/port"; fi
  prometheus_config "$scraped" >"$dir/prometheus.yml"
  remember_server "$dir" prometheus
  # Only Debian's has its pages outside of the program.
  [[ $(command -v prometheus) != "$DIST"/* ]] || own=(--web.local-assets="$pages/")
  start_detached "$dir/pid" "$dir/log" prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/data" \
    --storage.tsdb.retention.time=2d --web.listen-address="127.0.0.1:$(<"$dir/port")" "${own[@]}"
  wait_until 30 prometheus_settled "$dir" && ! process_is_gone "$dir/pid"
}

# prometheus_stop DIR MODE: fast writes what is in memory, immediate kills.
prometheus_stop() {
  local dir=$1 signal=TERM
  [[ ${2:-fast} != immediate ]] || signal=KILL
  stop_process "$dir/pid" "$signal" 20
  forget_server "$dir"
}
