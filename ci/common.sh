# Sourced by the scripts beside it: where things are, and how progress is shown. Sets nothing up by itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD
VENV=${BASCULE_VENV:-$ROOT/.venv}
STARTED=$SECONDS

step() {
    printf '\n== [%3ds] %s\n' "$((SECONDS - STARTED))" "$*"
}

fail() {
    printf '\n%s\n' "$*" >&2
    exit 1
}
