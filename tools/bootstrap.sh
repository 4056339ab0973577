#!/usr/bin/env bash
# Creates .venv: Python >= 3.11, the locked packages with their hashes checked, and this checkout installed as editable.
# Needs only a system Python. A second run without changes takes a few milliseconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp_file=$venv/.niyanta-stamp

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  {
    echo "Niyanta needs Python 3.11 or later with its venv module; none was found."
    echo "Install one (Debian and Ubuntu: apt-get install python3 python3-venv) or set PYTHON: PYTHON=/path/to/python make ..."
  } >&2
  return 1
}

# Inputs of the environment: a change of any of them installs the packages again.
stamp() {
  cat requirements-dev.lock pyproject.toml tools/bootstrap.sh | cksum
  pwd
}

wanted=$(stamp)
if [ -x $venv/bin/niyanta ] && [ "$(cat $stamp_file 2>/dev/null)" = "$wanted" ]; then
  exit 0
fi

if [ ! -x $venv/bin/python ] || ! $venv/bin/python -m pip --version >/dev/null 2>&1; then
  python=$(find_python)
  echo "Creating $venv with $("$python" --version) ..." >&2
  "$python" -m venv --clear $venv
fi

rm -f $stamp_file
echo "Installing the locked packages ..." >&2
export PIP_DISABLE_PIP_VERSION_CHECK=1
$venv/bin/python -m pip install --quiet --require-hashes -r requirements-dev.lock
# The build backend comes from the lock too, so no isolated build environment is fetched.
$venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
printf '%s\n' "$wanted" >$stamp_file
