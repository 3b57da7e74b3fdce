#!/bin/sh
# Where the processor time of the proxy goes under a load: kernel, interpreter, libc, uvloop, our functions.
#
#   benchmarks/profile.sh LOAD [OPTION of benchmarks.run ...]
#
#   benchmarks/profile.sh ingest
#   benchmarks/profile.sh balancer --seconds 10 --ours 'compiled=/opt/compiled/bin/python' --peers compiled
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
load=$1
shift
python=${PYTHON:-.venv/bin/python}
exec "$python" -m benchmarks.run --loads "$load" --peers ours --rounds 1 --no-steady --profile "$@"
