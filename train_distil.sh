#!/usr/bin/env bash
# See ./train_distil.sh --help. Python: .venv beside this file, else $PYTHON, else python3.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # `sh` may be another shell
set -euo pipefail
here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
python=${PYTHON:-python3}
[ -x "$here/.venv/bin/python" ] && python=$here/.venv/bin/python
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" K2DISTIL_PROG=train_distil.sh
# By -m, a folder `k2distil` or a `random.py` where the user stands would be taken for ours.
exec "$python" -c 'import sys; sys.path = [path for path in sys.path if path]
from k2distil.bin.main import main; sys.exit(main())' train_distil "$@"
