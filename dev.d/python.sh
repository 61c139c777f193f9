# shellcheck shell=bash
# What the examples in docs/examples need of Python: fetched from PyPI into .stack/dist/, once.

readonly EXAMPLES=$ROOT/docs/examples

fetch_example_packages() {
  local into=$1 work
  shift
  [[ ! -d $into ]] || return 0
  say "fetching Python packages of docs/examples"
  work=$(mktemp -d "$DIST/.python.XXXXXX")
  quietly "fetching Python packages from PyPI" "$LOG/fetch-python.log" \
    python3 -m pip install --quiet --target "$work" "${@/#/--requirement=}"
  mv "$work" "$into"
}

# Says where they are, for the tests. The directory's name changes with what is wanted.
ensure_example_packages() {
  local -a requirements=("$EXAMPLES"/*/requirements.txt)
  local sum
  python3 -m pip --version >/dev/null 2>&1 || ensure_packages yes
  read -r sum _ < <(cat "${requirements[@]}" | sha256sum)
  WALFERRY_PYTHONPATH=$DIST/python-${sum:0:12}
  with_fetch_lock fetch_example_packages "$WALFERRY_PYTHONPATH" "${requirements[@]}"
  export WALFERRY_PYTHONPATH
}
