# For demo.sh and test.sh, which stand at the top of the repository: make_environment FOLDER WHAT makes a virtual environment (or completes the one
# that is there), installs WHAT ('.', '.[dev]') with the pinned versions, and activates it. Returns 1 with one line where that can't be done.
# pip runs each time: it adds what is missing. `.incomplete` marks an environment that was never finished; it is made anew.
make_environment() {
    local venv=$1 what=$2 python
    unset PYTHONPATH PYTHONHOME
    export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
    for python in python3.11 python3 python ''; do
        [ -n "$python" ] || { echo 'Python 3.11 or later was not found' >&2; return 1; }
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
    echo "== environment: $venv (the first time takes some minutes)"
    [ ! -e "$venv/.incomplete" ] || rm -rf "$venv"
    [ -e "$venv" ] || { mkdir -p "$venv" && touch "$venv/.incomplete"; }
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv" || { echo "$python could not make an environment in $venv" >&2; return 1; }
    "$venv/bin/python" -m pip install -qq -c constraints.txt -e "$what" || { echo "pip could not install $what into $venv" >&2; return 1; }
    rm -f "$venv/.incomplete"
    export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"
    echo "$(python --version), torch $(python -c 'import torch; print(torch.__version__)'), ready after $SECONDS s"
}
