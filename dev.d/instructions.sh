# shellcheck shell=bash
# ./dev instructions: the program is bench/codec; here it is built as the tests are and gets its valgrind.

# /usr/bin/valgrind is a script that sets paths of the C library's debug files: not needed to count.
arrange_valgrind() {
  mkdir bin && ln -s ../usr/bin/valgrind.bin bin/valgrind &&
    ln -s "$(dirname -- "$(compgen -G 'usr/lib*/valgrind/callgrind-*-linux' | head -n 1)")" lib
}

# Puts a valgrind into PATH: the machine's own, else Debian's package; fails when neither is to be had.
ensure_valgrind() {
  ! command -v valgrind >/dev/null || return 0
  with_fetch_lock fetch_debian valgrind valgrind arrange_valgrind
  [[ -x $DIST/valgrind/bin/valgrind ]] || return 1
  export VALGRIND_LIB=$DIST/valgrind/lib
  PATH=$DIST/valgrind/bin:$PATH
}

# The program with the tests' optimisations: `./dev test` has all but the program itself then.
instructions_program() {
  cargo test --quiet --locked --bench codec --no-run --message-format=json |
    sed -n 's/.*"name":"codec".*"executable":"\([^"]*\)".*/\1/p'
}

cmd_instructions() {
  [[ $# -eq 0 || $* == --write ]] || die "instructions takes nothing or --write"
  count_instructions "$@"
}

count_instructions() {
  local program
  cd "$ROOT" || die "cannot enter $ROOT"
  ensure_rust
  with_fetch_lock ensure_packages no
  ensure_valgrind ||
    die "valgrind is missing and cannot be fetched (see $LOG/fetch-valgrind.log)" "install a package of that name, then run ./dev instructions again"
  program=$(instructions_program)
  [[ -x $program ]] || die "bench/codec cannot be built"
  "$program" instructions "$@"
}

# Part of ./dev test: CI must count; a person whose machine cannot is told.
test_instructions() {
  local machine
  machine=$(uname -m)
  if [[ -z ${CI:-} ]]; then
    if ! grep -qxF "[$machine]" bench/instructions.toml; then
      say "instructions skipped: bench/instructions.toml has no counts for $machine (./dev instructions --write adds them)"
      return 0
    fi
    if ! ensure_valgrind; then
      say "instructions skipped: valgrind is not installed and cannot be fetched (see $LOG/fetch-valgrind.log)"
      return 0
    fi
  fi
  say "instructions"
  count_instructions
}
