#!/usr/bin/env bash
# Makes an environment and runs all tests: every notebook, then tests/. Needs only Python 3.11 (or later) and a shell.
#
#     bash test.sh                     # the environment is .venv-test in this folder; the first time takes some minutes
#     VENV=~/envs/ss bash test.sh      # somewhere else
#
# The last line is `N passed, M failed`, where a notebook counts as one test; the exit code is 0 only if nothing failed.
set -euo pipefail
from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
VENV=${VENV:-$PWD/.venv-test}
case $VENV in /*) ;; *) VENV=$from/$VENV ;; esac
export OMP_NUM_THREADS=1 WANDB_MODE=disabled HF_HUB_OFFLINE=1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'echo interrupted; exit 130' INT TERM
. tools/environment.sh
make_environment "$VENV" '.[dev]' || { echo '0 passed, 1 failed'; exit 1; }

# --- the tests. The second part runs whatever became of the first.
began=$SECONDS
clock() { # put the time on nbdev's lines about a notebook's start and end
    local line
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in 'Starting '*|'- Completed '*) line="[$((SECONDS-began)) s] ${line/"$PWD/"/}" ;; esac
        printf '%s\n' "$line"
    done
}
echo; echo '== notebooks'
nb_code=0
nbdev_test --n_workers 2 --do_print --timing 2>&1 | clock | tee "$tmp/notebooks.txt" || nb_code=$?
echo "notebooks: exit code $nb_code after $((SECONDS-began)) s"

echo; echo '== tests/'
py_code=0
python -m pytest -q -rfEs --junitxml="$tmp/pytest.xml" tests || py_code=$?

# --- the count. Only what is known to have passed counts as passed: a run that died without its list of results is a failure.
counts=$(python - "$tmp" "$nb_code" "$py_code" <<'EOF'
import re, sys
from pathlib import Path
from xml.etree import ElementTree
from nbdev.doclinks import nbglob
from nbdev.test import _keep_file

tmp, nb_code, py_code = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

notebooks = len([f for f in nbglob(as_path=True) if _keep_file(f, '.notest')])  # what nbdev_test runs
printed = (tmp/'notebooks.txt').read_text(errors='replace')
listed = re.search(r'^nbdev Tests Failed On The Following Notebooks:\n=+\n((?:\t.*(?:\n|\Z))+)', printed, re.M)
if nb_code==0 and notebooks and re.search(r'^Success\.$', printed, re.M): passed, failed = notebooks, 0
elif nb_code and listed: failed = len(listed[1].splitlines()); passed = notebooks-failed
else: passed, failed = 0, max(1, notebooks)

try: cases = list(ElementTree.parse(tmp/'pytest.xml').iter('testcase'))
except (FileNotFoundError, ElementTree.ParseError): cases = []
kinds = [{child.tag for child in case} for case in cases]
bad = sum(bool(k & {'failure', 'error'}) for k in kinds)
passed, failed = passed+sum(not k & {'failure', 'error', 'skipped'} for k in kinds), failed+bad
if not cases or (py_code!=0)!=(bad>0): failed += 1  # died, or found nothing to run
print(passed, failed)
EOF
) || counts='0 1'
echo
echo "${counts% *} passed, ${counts#* } failed"
[ "${counts#* }" = 0 ] && [ "$nb_code" = 0 ] && [ "$py_code" = 0 ]
