# Sourced by the scripts beside it: the environment, and how they read their arguments.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONUTF8=1    # file names, tables and progress bars are UTF-8 whatever the locale

TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu

# Print the comment block at the head of a script: its help.
help_of() { sed -n '2,/^$/s/^# \{0,1\}//p' "$1"; }

# expect_python PROGRAM: end where it is too old.
expect_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
        echo "error: $1 is not Python 3.11 or newer; name another with PYTHON=… $0" >&2; exit 1; }
}

# options_of NAME: print the help of segment or label, which needs no .venv.
options_of() {
    local python=${PYTHON:-python3}
    [[ ! -x .venv/bin/python ]] || python=.venv/bin/python
    expect_python "$python"
    "$python" -m qnet.scripts.options "$1"
}

# use_environment FILE: make .venv from a file of requirements when something of it is missing, and use .venv. TORCH=cpu or TORCH=cuda
# says which build of PyTorch; without it the build that is installed stays, and the first one is chosen by whether an NVIDIA GPU is seen.
use_environment() {
    local record=.venv/installed-requirements.txt build
    build=$(torch_build "$record") || exit 2
    if ! is_installed "$build" "$1" "$record"; then
        local python=${PYTHON:-python3}
        expect_python "$python"
        say_what_is_installed "$build" "$1" "$record"
        "$python" -m venv .venv
        install_requirements "$build" "$1" "$record"
        environment_record "$build" "$1" > "$record"
    fi
    source .venv/bin/activate
}

# is_installed BUILD FILE RECORD: whether the record has every line of what is asked for; it may have more.
is_installed() { [[ -f $3 ]] && ! grep --quiet --invert-match --line-regexp --fixed-strings --file="$3" <(environment_record "$1" "$2"); }

# environment_record BUILD FILE: what .venv is made of.
environment_record() { echo "# TORCH=$1"; requirements_of "$2"; }

# requirements_of FILE: its lines and those of the files that it names with --requirement, without comments.
requirements_of() {
    local option rest
    sed -E 's/(^|[[:space:]]+)#.*//; /^[[:space:]]*$/d' "$1" | while read -r option rest; do
        if [[ $option == --requirement ]]; then requirements_of "$rest"; else echo "$option${rest:+ $rest}"; fi
    done
}

# pinned_torch FILE: its lines about PyTorch.
pinned_torch() { requirements_of "$1" | grep -E '^torch(vision)?=='; }

# installed_build FILE: the build in an environment's record; nothing where there is none.
installed_build() { sed -n '1s/^# TORCH=//p' "$1" 2>/dev/null || true; }

# torch_build FILE: "cpu" or "cuda": TORCH, or what the record FILE has, or what fits the machine.
torch_build() {
    case ${TORCH:-} in
        cpu|cuda) echo "$TORCH"; return ;;
        ?*) echo "error: TORCH: got '$TORCH', allowed: cpu, cuda, or unset" >&2; return 2 ;;
    esac
    local seen=cpu installed
    ! sees_nvidia_gpu || seen=cuda
    installed=$(installed_build "$1")
    [[ $installed != cpu || $seen != cuda ]] ||
        echo "note: .venv has PyTorch's CPU build, and an NVIDIA GPU is seen; TORCH=cuda before the command installs the other" >&2
    echo "${installed:-$seen}"
}

sees_nvidia_gpu() { [[ -e /dev/nvidia0 || -e /proc/driver/nvidia/version ]] || nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU'; }

# say_what_is_installed BUILD FILE RECORD. Sizes: on Linux with an x86 processor; those of the CPU build are reckoned from the other's.
say_what_is_installed() {
    local name="PyTorch's CPU build"
    [[ $1 == cpu ]] || name="PyTorch's build for NVIDIA GPUs"
    if is_installed "$1" <(pinned_torch "$2") "$3"; then
        echo "adding to .venv what $2 asks for besides (once); $name stays"
        return
    fi
    echo "setting up .venv from $2 (once; a few minutes)"
    case $1 in
        cpu)  echo "$name: about 0.6 GB to download, 2 GB on the disk. TORCH=cuda before the command takes the build for NVIDIA GPUs" ;;
        cuda) echo "$name: about 3.3 GB to download, 6.5 GB on the disk. TORCH=cpu before the command takes the CPU build" ;;
    esac
}

# install_requirements BUILD FILE RECORD: fill .venv from FILE; RECORD is of what is there. On Linux the default index has the CUDA build
# alone, elsewhere what fits the machine.
install_requirements() {
    local pip=(.venv/bin/python -m pip) pinned found
    pinned=($(pinned_torch "$2"))
    found=$(installed_build "$3")
    rm -f "$3"      # until all is there
    [[ -z $found || $found == "$1" ]] || remove_torch
    if [[ $1 == cpu && $(uname -s) == Linux ]]; then
        "${pip[@]}" install --quiet --retries 0 --timeout 10 --index-url "$TORCH_CPU_INDEX" "${pinned[@]}" 2>/dev/null ||
            echo "PyTorch's own index cannot be reached: taking PyTorch from the default one, 3.3 GB to download in all"
    fi
    "${pip[@]}" install --quiet --requirement "$2"
}

# Take PyTorch and CUDA's libraries out of .venv: pip would take one build for the other.
remove_torch() {
    local names
    names=$(.venv/bin/python -m pip list --format freeze | sed -nE 's/^((torch|torchvision|triton|nvidia-[^=]*|cuda-[^=]*))==.*/\1/p')
    [[ -z $names ]] || .venv/bin/python -m pip uninstall --quiet --yes $names
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
