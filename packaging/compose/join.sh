#!/bin/sh
# Enrolls an agent with a new token, unless it has joined before.
#
#   join.sh AGENT CONFIG
#
# It uses the API at REVEILLE_API_URL, by default on this network's loopback, with the root key in REVEILLE_DATA_DIR. It writes the
# agent's key beside CONFIG, and CONFIG last: if CONFIG exists, the agent has joined.
set -eu

if [ -e "$2" ]; then
    echo "$1 has joined before"
    exit 0
fi
# Prints `reveille join` and the token.
join=$(reveille agent token "$1" --hub "${REVEILLE_API_URL:-http://127.0.0.1:8420}")
exec $join --name "$1" --config "$2" --no-start
