#!/usr/bin/env bash
# Run a daemon and start it again whenever it ends, until this script is told to stop (SIGTERM, Ctrl-C), which it passes
# on. For machines without systemd, and for tests: a supervisor needs to know no more of covey than this.
# Usage: keep-running.sh covey up        RESTART_DELAY_S (default 1) is the pause before each restart.
child= stopped=
trap 'stopped=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT
while [ -z "$stopped" ]; do
  "$@" &
  child=$!
  wait "$child"
  status=$?
  while kill -0 "$child" 2>/dev/null; do # a signal interrupted the wait: the daemon still drains
    wait "$child"
    status=$?
  done
  child=
  if [ -z "$stopped" ]; then
    echo "keep-running: $1 ended with $status; starting it again" >&2
    sleep "${RESTART_DELAY_S:-1}"
  fi
done
exit "${status:-0}"
