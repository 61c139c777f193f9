# shellcheck shell=bash
# One Postgres server in one directory:
#   DIR/data  the cluster     DIR/log  its log     DIR/port, DIR/major  chosen once, kept over restarts
#   DIR/bin   where the programs are that it was started with
# A cluster is a copy of a template (initdb takes up to 1.4 s, the copy 0.05 s) with a system identifier of its own.

# Makes the template cluster of a major.
make_pg_template() {
  local major=$1 template=$DIST/pgdata-$1 work bin
  [[ ! -d $template ]] || return 0
  bin=$(pg_bin "$major")
  work=$(mktemp -d "$DIST/.pgdata-$major.XXXXXX")
  chmod 755 "$work"
  own_by_server_user "$work"
  quietly "initdb of Postgres $major" "$LOG/initdb-$major.log" \
    as_server_user "$bin/initdb" -D "$work/data" -A trust -U postgres -E UTF8 --locale=C.UTF-8 --no-sync
  mv "$work/data" "$template"
  rm -rf -- "$work"
}

# CRC-32C, as pg_control carries it: one table, one step a byte.
crc32c_table() {
  local i bit c
  CRC32C=()
  for ((i = 0; i < 256; i++)); do
    c=$i
    for ((bit = 0; bit < 8; bit++)); do c=$(((c & 1) ? (c >> 1) ^ 0x82F63B78 : c >> 1)); done
    CRC32C[i]=$c
  done
}

# Writes bytes (given as numbers) into a file at an offset.
patch_bytes() {
  local file=$1 offset=$2 escaped
  shift 2
  printf -v escaped '\\x%02x' "$@"
  printf '%b' "$escaped" | dd of="$file" bs=1 seek="$offset" conv=notrunc status=none
}

# Gives a copied cluster its own system identifier. walferry tells databases apart by it, so two servers
# must never share one. The identifier stands in pg_control (first 8 bytes, all under a CRC-32C) and in
# the first page header of each WAL segment (offset 24); see src/include/catalog/pg_control.h, access/xlog_internal.h.
# Where the CRC lies differs by major, so it is found by computing; 1 if it is not found.
give_own_system_id() {
  local data=$1 control=$1/global/pg_control crc=$((0xFFFFFFFF)) at=0 i stored segment
  local -a bytes id
  read -ra bytes <<<"$(od -An -v -tu1 -w400 -N400 "$control")"
  crc32c_table
  for ((i = 0; i < 396; i++)); do
    if ((i >= 200 && i % 4 == 0)); then
      stored=$((bytes[i] | bytes[i + 1] << 8 | bytes[i + 2] << 16 | bytes[i + 3] << 24))
      if (((crc ^ 0xFFFFFFFF) == stored)); then
        at=$i
        break
      fi
    fi
    crc=$((CRC32C[(crc ^ bytes[i]) & 255] ^ (crc >> 8)))
  done
  ((at > 0)) || return 1
  read -ra id <<<"$(od -An -v -tu1 -w8 -N8 /dev/urandom)"
  id[7]=$((id[7] & 127 | 64)) # positive and large, like a real one (seconds since 1970 in the upper half)
  bytes[0]=${id[0]} bytes[1]=${id[1]} bytes[2]=${id[2]} bytes[3]=${id[3]}
  bytes[4]=${id[4]} bytes[5]=${id[5]} bytes[6]=${id[6]} bytes[7]=${id[7]}
  crc=$((0xFFFFFFFF))
  for ((i = 0; i < at; i++)); do crc=$((CRC32C[(crc ^ bytes[i]) & 255] ^ (crc >> 8))); done
  crc=$((crc ^ 0xFFFFFFFF))
  patch_bytes "$control" 0 "${id[@]}"
  patch_bytes "$control" "$at" $((crc & 255)) $((crc >> 8 & 255)) $((crc >> 16 & 255)) $((crc >> 24 & 255))
  for segment in "$data"/pg_wal/0000000*; do patch_bytes "$segment" 24 "${id[@]}"; done
}

# A new cluster: the fast way, or plain initdb should a minor release change the layout.
create_cluster() {
  local dir=$1 major=$2 bin
  bin=$(pg_bin "$major")
  cp -a --reflink=auto -- "$DIST/pgdata-$major" "$dir/data"
  if ! give_own_system_id "$dir/data"; then
    rm -rf -- "$dir/data"
    quietly "initdb" "$dir/initdb.log" \
      as_server_user "$bin/initdb" -D "$dir/data" -A trust -U postgres -E UTF8 --locale=C.UTF-8 --no-sync
  fi
  cat >>"$dir/data/postgresql.conf" <<'CONF'

# by ./dev
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_level = logical
max_wal_senders = 20
max_replication_slots = 20
max_connections = 200
log_line_prefix = '%m [%p] %a '
logging_collector = off
fsync = off                 # throw-away servers; ./dev up, demo and bench set it on
CONF
  echo "$major" >"$dir/major"
}

# Appends settings given as k=v; the last one wins in postgresql.conf.
append_pg_settings() {
  local dir=$1 setting
  shift
  for setting in "$@"; do
    [[ $setting == *=* ]] || die "--set wants name=value, not '$setting'"
    printf "%s = '%s'\n" "${setting%%=*}" "${setting#*=}" >>"$dir/data/postgresql.conf"
  done
}

pg_pid() {
  local dir pid
  local -a args
  dir=$(readlink -f -- "$1")
  { read -r pid <"$dir/data/postmaster.pid" && mapfile -d '' args <"/proc/$pid/cmdline"; } 2>/dev/null || return 1
  # A crash leaves the file behind: believe it only if that process was started on this very directory.
  [[ " ${args[*]} " == *" -D $dir/data "* ]] || return 1
  printf '%s\n' "$pid"
}

# The parents of DIR must let the servers' user through.
refuse_closed_directory() {
  local dir=$1
  as_server_user test -x "$dir" && return 0
  die "user $SERVER_USER, who runs the server, cannot enter $dir" \
    "a directory above it is closed to others (mktemp -d and Rust's tempfile make such); use one under $STACK/test/"
}

# Starts the server in DIR, made if it is not there: pg_start DIR MAJOR [k=v…]. Ready when it returns.
pg_start() {
  local dir=$1 major=$2 bin port try fixed_port=
  shift 2
  mkdir -p -- "$dir"
  dir=$(readlink -f -- "$dir")
  if [[ -d $dir/data ]]; then
    [[ $(<"$dir/major") == "$major" ]] ||
      die "$dir holds data of Postgres $(<"$dir/major"), not $major" "delete it (./dev down --wipe), or use PG_VERSION=$(<"$dir/major")"
  else
    own_by_server_user "$dir"
    refuse_closed_directory "$dir"
    create_cluster "$dir" "$major"
  fi
  remember_server "$dir" postgres
  append_pg_settings "$dir" "$@"
  if pg_pid "$dir" >/dev/null; then
    say "Postgres in $dir runs already; its settings apply after a restart"
    return 0
  fi
  bin=$(pg_bin "$major")
  echo "$bin" >"$dir/bin"
  [[ ! -f $dir/port ]] || fixed_port=$(<"$dir/port")
  for try in 1 2 3; do
    port=${fixed_port:-$(free_port)}
    # -t: recovery after a crash may take long on a busy machine
    # setsid: Ctrl-C is for us to handle, not for a server half started
    if as_server_user setsid --wait "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -o "-p $port" -t 90 -w start >"$dir/pg_ctl.log" 2>&1 9>&-; then
      echo "$port" >"$dir/port"
      return 0
    fi
    # Somebody may have taken the port since it was found free: choose another, if it is ours to choose.
    if [[ -n $fixed_port || $try == 3 ]] || ! tail -n5 "$dir/log" | grep -q 'could not bind'; then break; fi
  done
  show_log_end "$dir/log"
  die "Postgres $major in $dir did not start" "its log: $dir/log; pg_ctl said: $(tail -n1 "$dir/pg_ctl.log")"
}

# pg_stop DIR MODE, MODE being Postgres's own: fast (a clean shutdown) or immediate (like a crash).
pg_stop() {
  local dir=$1 mode=${2:-fast} bin
  if pg_pid "$dir" >/dev/null; then
    bin=$(<"$dir/bin") # PG_BIN may be another by now
    as_server_user "$bin/pg_ctl" -D "$(readlink -f -- "$dir/data")" -m "$mode" -t 60 -w stop >"$dir/pg_ctl.log" 2>&1 || {
      show_log_end "$dir/log"
      die "Postgres in $dir did not stop (mode $mode) within 60 s" "its log: $dir/log" \
        "a replication client that does not confirm keeps a fast stop waiting; --mode immediate does not wait"
    }
  fi
  forget_server "$dir"
}
