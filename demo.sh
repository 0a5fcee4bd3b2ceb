#!/usr/bin/env bash
# Makes an environment and runs the whole main job on the embedded database: tokens, training, prediction, RMSD. Needs only Python 3.11 (or later) and a shell.
#
#     bash demo.sh                     # the environment is .venv in this folder; the first time takes some minutes
#     VENV=~/envs/ss bash demo.sh      # somewhere else
#     bash demo.sh --epochs 2          # what follows is handed to ss_demo
#
# Writes demo_output/: demo.png, demo.html, demo.txt, and the trained model.
set -euo pipefail
from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
VENV=${VENV:-$PWD/.venv}
case $VENV in /*) ;; *) VENV=$from/$VENV ;; esac
. tools/environment.sh
make_environment "$VENV" .
exec ss_demo "$@"
