#!/usr/bin/env bash
# Submit prepare → train → evaluate → compare to a SLURM cluster as one chain of jobs; from the repository's root.
#
#   bash scripts/slurm_chain.sh [--dry-run] [configs…] [-- options] [--prepare arguments]
#   bash scripts/slurm_chain.sh cmr_setting1 -- adnet --prepare cmr --source DOWNLOAD --target data/CMR
#
#   configs    trained on folds 0 to 4 and evaluated by scripts/slurm_array.sh, which has the default ones and the size of a job
#   options    as for train.py; test.py gets them too
#   arguments  as for data/prepare.py, the last of all; without --prepare the chain begins with the training
#   --dry-run  print what would be submitted and what each task would run; needs no SLURM
#
# Training begins when all is prepared, the evaluation of a task when that task is trained, the comparison when all are evaluated: a
# table for each data set and setting, runs/comparison_<configs>/. When a job fails, those after it are cancelled; the same command
# submits the chain again, which goes on where it ended. SBATCH_PARTITION=… and SBATCH_ACCOUNT=… before the command hold for all jobs.
# Preparation and comparison take no GPU. Make .venv first (bash scripts/run_tests.sh does).

set -euo pipefail
cd "$(dirname "$0")/.."
array=scripts/slurm_array.sh
dry_run='' given=() prepare=()
case ${1:-} in
    -h|--help) source scripts/common.sh; help_of "scripts/${0##*/}"; exit ;;
    --dry-run) dry_run=1; shift ;;
esac
while [[ $# -gt 0 && $1 != --prepare ]]; do given+=("$1"); shift; done
if [[ $# -gt 0 ]]; then
    shift
    [[ $# -gt 0 ]] || { echo "error: --prepare: got nothing after it, expected arguments of data/prepare.py (--help explains)" >&2; exit 2; }
    prepare=("$@")
fi
n_tasks=$(bash "$array" --count "${given[@]}")

# submit STAGE DEPENDENCY N_TASKS ARGUMENTS…: submit a stage that waits for the job of the one before, if any; job=(its number).
submit() {
    local stage=$1 n=$3 command=(sbatch --parsable "--job-name=qnet-$1" "--array=0-$(($3 - 1))") task
    [[ -z $2 ]] || command+=("--dependency=$2:$job" --kill-on-invalid-dep=yes)
    case $stage in prepare|compare) command+=(--gres=none) ;; esac
    shift 3
    command+=("$array" "$stage" "$@")
    if [[ -n $dry_run ]]; then
        echo "${command[*]}"
        for ((task = 0; task < n; task++)); do bash "$array" --dry-run "$task" "$stage" "$@" | sed 's/^/    /'; done
        job="<$stage>"
    else
        job=$("${command[@]}") || { echo "error: sbatch refused $stage; jobs above stay in the queue: scancel takes them out" >&2; exit 1; }
        job=${job%%;*}      # number;cluster
        echo "$stage: job $job"
    fi
}

job='' after=''
if [[ ${#prepare[@]} -gt 0 ]]; then
    submit prepare '' 1 "${prepare[@]}"
    after=afterok
fi
submit train "$after" "$n_tasks" "${given[@]}"
submit evaluate aftercorr "$n_tasks" "${given[@]}"
submit compare afterok 1 "${given[@]}"
