# shellcheck shell=bash
# Programs from Debian's packages, unpacked into .stack/dist/: nothing is installed, no service is started, no root needed.

# Downloads packages into the working directory: by the machine's package lists or, where they are missing or out of
# date, by lists of our own. Without a network it gives up within a minute.
download_debian() {
  local -a apt=(apt-get -q -o APT::Sandbox::User= -o Acquire::Retries=0 -o Acquire::http::Timeout=15)
  ! "${apt[@]}" download "$@" || return 0
  apt+=(-o "Dir::State::lists=$PWD/lists" -o "Dir::Cache=$PWD/cache")
  mkdir -p -- lists/partial cache/archives/partial && "${apt[@]}" update && "${apt[@]}" download "$@"
}

# fetch_debian NAME PACKAGE [COMMAND…]: the package's files as .stack/dist/NAME; the command, run among them, arranges
# them. Whether it went well is seen by whether they are there; $LOG/fetch-NAME.log tells why not.
fetch_debian() {
  local name=$1 package=$2 work
  shift 2
  [[ ! -e $DIST/$name ]] || return 0
  say "fetching $name"
  work=$(mktemp -d "$DIST/.$name.XXXXXX")
  if (cd "$work" && download_debian "$package" && dpkg-deb -x "${package}"_*.deb tree && cd tree && "${@:-true}") \
    >"$LOG/fetch-$name.log" 2>&1; then
    chmod -R a+rX "$work/tree"
    mv -- "$work/tree" "$DIST/$name"
  fi
  rm -rf -- "$work"
}
