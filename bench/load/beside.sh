#!/bin/sh
# One route more, through the admin API of the balancer that bench/load/beside.py started: ROUTES DIRECTORY.
set -eu
read -r prefix address <<END
$(tail -n 1 "$1")
END
exec curl -sS -f -o /dev/null --unix-socket "$2/bascule/admin.sock" -X PUT -H 'Content-Type: application/json' \
    -d "{\"route\":\"PathPrefix(\`$prefix\`)\",\"backend\":\"$(printf %s "$address" | tr : -)\"}" \
    "http://localhost/v1/frontends/n$(wc -l <"$1")?wait=applied"
