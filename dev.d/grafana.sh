# shellcheck shell=bash
# Part of ./dev test: what grafana/ holds is judged by those it is written for, as far as they can be had.

readonly PINT_VERSION=0.87.0

# What CI must check, and a person whose machine cannot is told of.
skip_check() {
  [[ -z ${CI:-} ]] || die "$1: $2"
  say "$1 skipped: $2"
}

# Prometheus's own checker: each alert must fire when it must and stay silent when it must not.
test_rules() {
  local rules=$ROOT/grafana/prometheus
  say "alert and recording rules"
  { promtool check rules "$rules"/{alerts,recording}.yml && promtool test rules "$rules"/{alerts,recording}_test.yml &&
    promtool check config "$ROOT/docker/prometheus.yml"; } >"$LOG/promtool.log" 2>&1 ||
    die "the rules for Prometheus are wrong: $(tail -n 30 "$LOG/promtool.log")"
}

# Says where Alertmanager is, for the tests. It is started once, as not every machine lets a process have its own /usr/share.
find_alertmanager() {
  if ensure_alertmanager && alertmanager --version >"$LOG/alertmanager.log" 2>&1; then
    WALFERRY_ALERTMANAGER=$(command -v alertmanager)
    export WALFERRY_ALERTMANAGER
  else
    skip_check "tests on Alertmanager" "it cannot be fetched or started (see $LOG/fetch-alertmanager.log, $LOG/alertmanager.log)"
  fi
}

test_alertmanager() {
  if ! ensure_alertmanager; then
    skip_check "Alertmanager's example" "amtool is not installed and cannot be fetched (see $LOG/fetch-alertmanager.log)"
    return 0
  fi
  say "Alertmanager's example"
  amtool check-config "$ROOT/grafana/prometheus/alertmanager.yml" >"$LOG/amtool.log" 2>&1 ||
    die "the example for Alertmanager is wrong: $(tail -n 30 "$LOG/amtool.log")"
}

# A module of our own names it: pint's cannot be installed by `go install` alone. It runs for a second, so it is built for a
# short build.
fetch_pint() {
  local work
  [[ ! -d $DIST/pint-$PINT_VERSION ]] || return 0
  say "building pint $PINT_VERSION (once)"
  work=$(mktemp -d "$DIST/.pint.XXXXXX")
  printf '%s\n' 'module walferry.dev/pint' 'go 1.26.0' "require github.com/cloudflare/pint v$PINT_VERSION" >"$work/go.mod"
  if (cd "$work" && GOFLAGS=-mod=mod go build -gcflags='all=-N -l' -ldflags='-s -w' -o pint github.com/cloudflare/pint/cmd/pint) \
    >"$LOG/fetch-pint.log" 2>&1; then
    chmod -R a+rX "$work"
    mv -- "$work" "$DIST/pint-$PINT_VERSION"
  fi
  rm -rf -- "$work"
}

# Sets WALFERRY_PINT if it has been built: tests/dashboards.rs asks it about the rules and a Prometheus under load.
find_pint() {
  [[ ! -x $DIST/pint-$PINT_VERSION/pint ]] || export WALFERRY_PINT=$DIST/pint-$PINT_VERSION/pint
}

# A linter of rules, here by itself.
test_pint() {
  find_pint
  if [[ -z ${WALFERRY_PINT:-} ]] && ! command -v go >/dev/null; then
    skip_check "pint (a linter of rules)" "Go is not installed, which builds it"
    return 0
  fi
  with_fetch_lock fetch_pint
  find_pint
  if [[ -z ${WALFERRY_PINT:-} ]]; then
    skip_check "pint (a linter of rules)" "it cannot be built (see $LOG/fetch-pint.log)"
    return 0
  fi
  say "pint"
  "$WALFERRY_PINT" --no-color --offline lint --fail-on=warning "$ROOT"/grafana/prometheus/{alerts,recording}.yml >"$LOG/pint.log" 2>&1 ||
    die "pint finds fault with the rules for Prometheus: $(tail -n 30 "$LOG/pint.log")"
}

# Where Grafana's types are, by what is asked for.
grafana_types() { printf '%s/grafana-types-%s\n' "$DIST" "$(cksum <"$ROOT/grafana/check/package-lock.json" | cut -d' ' -f1)"; }

fetch_grafana_types() {
  local work
  [[ ! -d $(grafana_types) ]] || return 0
  say "fetching Grafana's types"
  work=$(mktemp -d "$DIST/.grafana-types.XXXXXX")
  cp -- "$ROOT"/grafana/check/package{,-lock}.json "$work/"
  if (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund) >"$LOG/fetch-grafana-types.log" 2>&1; then
    mv -- "$work" "$(grafana_types)"
  fi
  rm -rf -- "$work"
}

test_dashboards() {
  if ! { command -v node && command -v npm; } >/dev/null; then
    skip_check "types of the dashboards" "Node is not installed"
    return 0
  fi
  with_fetch_lock fetch_grafana_types
  if [[ ! -d $(grafana_types) ]]; then
    skip_check "types of the dashboards" "Grafana's types cannot be fetched from npm (see $LOG/fetch-grafana-types.log)"
    return 0
  fi
  say "types of the dashboards"
  node "$ROOT/grafana/check/types.mjs" "$(grafana_types)" >"$LOG/dashboards.log" 2>&1 ||
    die "the dashboards are not what Grafana's types ask for: $(tail -n 30 "$LOG/dashboards.log")"
}
