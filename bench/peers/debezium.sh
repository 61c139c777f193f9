#!/usr/bin/env bash
# Debezium as the benchmark compares with it: Kafka Connect with Debezium's Postgres source and JDBC sink in one process.
#   debezium.sh fetch               the jars, once, into .stack/dist/
#   debezium.sh run SETTING TABLE…  Connect in the foreground, with the property files of debezium/ or debezium-tuned/
# What the property files leave open they take from the environment (${env:…}); README.md lists that.
set -euo pipefail
umask 022

PEERS=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
ROOT=$(dirname -- "$(dirname -- "$PEERS")")
PARTS=$ROOT/dev.d
readonly PEERS ROOT PARTS

# shellcheck source=dev.d/say.sh
source "$PARTS/say.sh"
# shellcheck source=dev.d/process.sh
source "$PARTS/process.sh"
# shellcheck source=dev.d/place.sh
source "$PARTS/place.sh"
# shellcheck source=dev.d/packages.sh
source "$PARTS/packages.sh"
# shellcheck source=dev.d/fetch.sh
source "$PARTS/fetch.sh"

VERSION=$(sed -n 's:.*<debezium.version>\(.*\)</debezium.version>.*:\1:p' "$PEERS/pom.xml")
JARS=$DIST/debezium-$VERSION
readonly VERSION JARS

fetch_jars() {
  local work
  [[ ! -d $JARS ]] || return 0
  say "fetching Debezium $VERSION and Kafka Connect"
  work=$(mktemp -d "$DIST/.debezium.XXXXXX")
  cp -- "$PEERS/pom.xml" "$work/"
  quietly "fetching Debezium $VERSION from Maven Central" "$LOG/fetch-debezium.log" \
    mvn -q -B -f "$work/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$work/libs"
  chmod -R a+rX "$work"
  mv "$work" "$JARS"
}

fetch() {
  [[ ! -d $JARS ]] || return 0
  ensure_packages yes
  ensure_java_is_new_enough
  with_fetch_lock fetch_jars
}

# Its process id is this script's. Sinks come first, so that they are ready when the source starts.
run() {
  local setting=$1 table
  local -a sinks=()
  shift
  [[ -d $JARS ]] || die "Debezium is not there" "fetch it: $PEERS/debezium.sh fetch"
  for table in "$@"; do
    [[ ! -f $PEERS/$setting/sink-$table.properties ]] || sinks+=("$PEERS/$setting/sink-$table.properties")
  done
  [[ ${#sinks[@]} -gt 0 ]] || sinks=("$PEERS/$setting/sink.properties")
  remember_process $$ "$DEBEZIUM_DIR/pid"
  exec "$(java_program)" "@$PEERS/$setting/jvm.options" -cp "$JARS/libs/*" \
    org.apache.kafka.connect.cli.ConnectStandalone "$PEERS/$setting/worker.properties" "${sinks[@]}" "$PEERS/$setting/source.properties"
}

case ${1:-} in
  fetch) fetch ;;
  run) shift && run "$@" ;;
  *) die "usage: debezium.sh fetch | run SETTING TABLE…" ;;
esac
