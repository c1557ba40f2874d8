# Sourced by the scripts beside it: the environment, and how they read their arguments.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONUTF8=1    # file names, tables and progress bars are UTF-8 whatever the locale

# Print the comment block at the head of a script: its help.
help_of() { sed -n '2,/^$/s/^# \{0,1\}//p' "$1"; }

# Make .venv from requirements.txt when it is missing or out of date, and use it.
use_environment() {
    if ! cmp -s requirements.txt .venv/installed-requirements.txt; then
        local python=${PYTHON:-python3}
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
            echo "error: $python is not Python 3.11 or newer; name another with PYTHON=… $0" >&2; exit 1; }
        echo "setting up .venv from requirements.txt (once; a few minutes)"
        "$python" -m venv .venv
        .venv/bin/python -m pip install --quiet --requirement requirements.txt
        cp requirements.txt .venv/installed-requirements.txt
    fi
    source .venv/bin/activate
}

# split_arguments "$@": folds=(what stands before --) and options=(what stands after it); no fold means all five.
split_arguments() {
    folds=() options=()
    while [[ $# -gt 0 && $1 != -- ]]; do
        [[ $1 =~ ^[0-9]+$ ]] || { echo "error: fold: got '$1', allowed: whole numbers, then -- and options of train.py" >&2; exit 2; }
        folds+=("$1"); shift
    done
    [[ $# -eq 0 ]] || { shift; options=("$@"); }
    [[ ${#folds[@]} -gt 0 ]] || folds=(0 1 2 3 4)
}

# train_folds CONFIG…: each config on each fold; a training that was interrupted goes on, one that is finished is kept.
train_folds() {
    local config fold
    for config in "$@"; do
        for fold in "${folds[@]}"; do
            echo "== $config, fold $fold"
            python train.py with "$config" "eval_fold=$fold" "${options[@]}"
        done
    done
}
