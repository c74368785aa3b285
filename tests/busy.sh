#!/usr/bin/env bash
# busy.sh [options or paths for pytest]: what works with real time, sockets and processes, on one core beside two busy
# loops. It is slow and must be green: a bound on real time in a test may only tell a hang from an end.
set -euo pipefail
cd "$(dirname "$0")/.."

loops=()
trap '((${#loops[@]})) && kill "${loops[@]}"' EXIT
for _ in 1 2; do
  taskset -c 0 bash -c 'while :; do :; done' &
  loops+=($!)
done

paths=0
for argument; do [[ -e ${argument%%::*} ]] && paths=1; done
((paths)) || set -- tests/transport tests/network tests/chaos tests/node tests/cli tests/store tests/checkpoint "$@"
taskset -c 0 "${BIN:-.venv/bin}/pytest" "$@"
