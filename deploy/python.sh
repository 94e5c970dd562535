#!/usr/bin/env bash
# The interpreter of the installation, run in the checkout, at a path where every user may walk.
#
#   deploy/python.sh ARGUMENT...
#
# Tests run parts of the checkout as other users. Where those cannot get to it (below /root, for example) it is shown to
# them below the state directory, by a mount that nobody else sees and that ends with the command.
set -euo pipefail

CHECKOUT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"
STATE="$(readlink --canonicalize-existing "$CHECKOUT/.malbox")"
PYTHON="$STATE/venv/bin/python"

cd "$CHECKOUT"
if [ "$(id -u)" != 0 ] || [ "$STATE" = "$CHECKOUT/.malbox" ]; then
    exec "$PYTHON" "$@"
fi
mkdir -p "$STATE/checkout"
# shellcheck disable=SC2016  # the inner shell expands these
exec unshare --mount --propagation private -- /bin/bash -euc '
    mount --bind "$1" "$2"
    cd "$2"
    shift 2
    exec "$@"' bash "$CHECKOUT" "$STATE/checkout" "$PYTHON" "$@"
