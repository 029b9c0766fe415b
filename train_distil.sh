#!/usr/bin/env bash
# See ./train_distil.sh --help. Python: .venv beside this file, else $PYTHON, else python3.
set -euo pipefail
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
python=${PYTHON:-python3}
[ -x "$here/.venv/bin/python" ] && python=$here/.venv/bin/python
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" K2DISTIL_PROG=train_distil.sh
exec "$python" -m k2distil.bin.train_distil "$@"
