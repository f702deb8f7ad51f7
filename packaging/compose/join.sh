#!/bin/sh
# Has an agent join by a token that is made for it, unless it has joined before.
#
#   join.sh AGENT CONFIG
#
# Speaks to the API at REVEILLE_API_URL, this network's loopback unless it is set, with the root key in REVEILLE_DATA_DIR.
# The agent's key is written beside CONFIG, which is written last: its being there says that the agent has joined.
set -eu

if [ -e "$2" ]; then
    echo "$1 has joined before"
    exit 0
fi
# Prints `reveille join` and the token.
join=$(reveille agent-token create "$1")
exec $join --name "$1" --config "$2"
