#!/usr/bin/env bash
# Train configs × folds on a SLURM cluster, one array task each; to be submitted from the repository's root.
#
#   sbatch scripts/slurm_array.sh                                                # the four configs below, folds 0 to 4
#   sbatch --array=0-4 --gres=gpu:4 scripts/slurm_array.sh cmr_setting1 -- seed=1
#   sbatch --array=0-4 scripts/slurm_array.sh evaluate cmr_setting1 -- seed=1    # another stage than train
#   sbatch --array=0 --gres=gpu:4 scripts/slurm_array.sh segment --scans scans --outlined a=a_labels.nii.gz --output outlined
#   bash scripts/slurm_array.sh --dry-run 7 [stage] [configs…] [-- options]      # print what task 7 would run
#   bash scripts/slurm_array.sh --count [stage] [configs…]                       # print the number of tasks
#
#   stage     train unless given; evaluate: test.py of the newest snapshot, tasks as for train; four with a single task, --array=0:
#             compare: scripts/compare.py of the newest evaluations; prepare: data/prepare.py with the arguments that follow;
#             segment: scripts/segment.py with them; predict: test.py predict with them as options
#   configs   task t takes config t / 5 and fold t % 5, so n of them are  --array=0-(5n − 1)
#   options   as for train.py, such as  encoder=resnet50 adnet
#
# A task that was given several GPUs, or with --nodes several machines, uses all of them by way of torchrun. Two minutes before its
# time is over, the program is told to stop, saves where it is, and the task is queued again; it goes on from there. So does one that
# was preempted. Make .venv first (bash scripts/run_tests.sh does). scripts/slurm_chain.sh submits all stages.

#SBATCH --job-name=qnet
#SBATCH --array=0-19
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%A_%a.out

set -euo pipefail
root=${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}    # sbatch runs a copy of this file from elsewhere
[[ -f $root/scripts/common.sh ]] || { echo "error: $root: no scripts/common.sh there; submit from the repository's root" >&2; exit 2; }
case ${1:-} in -h|--help) source "$root/scripts/common.sh"; help_of "$0"; exit ;; esac

dry_run='' count='' task=${SLURM_ARRAY_TASK_ID:-}
if [[ ${1:-} == --count ]]; then
    count=1
    shift
elif [[ ${1:-} == --dry-run ]]; then
    dry_run=1 task=${2:-$task}
    shift $(($# < 2 ? 1 : 2))
fi
stage=train n_folds=5
case ${1:-} in prepare|segment|predict|train|evaluate|compare) stage=$1; shift ;; esac
configs=() own=''      # own: all arguments are the program's
case $stage in prepare|segment|predict) own=1 ;; esac
if [[ -z $own ]]; then
    while [[ $# -gt 0 && $1 != -- ]]; do configs+=("$1"); shift; done
    [[ $# -eq 0 ]] || shift
    [[ ${#configs[@]} -gt 0 ]] || configs=(chaost2_setting1 chaost2_setting2_liver_spleen chaost2_setting2_kidneys cmr_setting1)
fi
case $stage in
    train|evaluate) n_tasks=$((n_folds * ${#configs[@]})) of=" with ${#configs[@]} configs" ;;
    *) n_tasks=1 of=" for $stage" ;;
esac
[[ -z $count ]] || { echo "$n_tasks"; exit; }
[[ $task =~ ^[0-9]+$ && $task -lt $n_tasks ]] || {
    echo "error: task: got '$task', allowed$of: 0 to $((n_tasks - 1)) (--help explains)" >&2; exit 2; }

n_gpus=${SLURM_GPUS_ON_NODE:-1} n_machines=${SLURM_NNODES:-1} restarts=3
[[ -z $own ]] || restarts=0     # a broken case stays broken
if [[ $n_machines -gt 1 ]]; then
    [[ -n $dry_run ]] && host="<first machine>" || host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    launch=(srun --ntasks-per-node=1 torchrun "--nnodes=$n_machines" "--nproc-per-node=$n_gpus" "--max-restarts=$restarts"
            "--rdzv-id=${SLURM_JOB_ID:-0}" --rdzv-backend=c10d "--rdzv-endpoint=$host:$((29500 + task))")
elif [[ $n_gpus -gt 1 ]]; then
    launch=(torchrun --standalone "--nproc-per-node=$n_gpus" "--max-restarts=$restarts")
else
    launch=(python)
fi
config=${configs[task / n_folds]:-} fold=$((task % n_folds))
find=(python scripts/newest.py snapshot "$config" --folds "$fold" --options "$@")
case $stage in
    prepare)  command=("${launch[@]}" data/prepare.py "$@") ;;
    segment)  command=("${launch[@]}" scripts/segment.py "$@") ;;
    predict)  command=("${launch[@]}" test.py predict with "$@") ;;
    train)    command=("${launch[@]}" train.py with "$config" "eval_fold=$fold" resume=auto "$@") ;;
    evaluate) command=("${launch[@]}" test.py with "$config" "eval_fold=$fold" resume=auto "$@" "reload_model_path=<newest>") ;;
    compare)  command=(python scripts/newest.py compare "${configs[@]}" --options "$@") ;;
esac
echo "task $task: ${command[*]}"
[[ $stage != evaluate || -z $dry_run ]] || echo "        <newest>: ${find[*]}"
[[ -z $dry_run ]] || exit 0

cd "$root"
export PYTHONUTF8=1
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1     # torchrun on several machines: addresses are forgotten when it starts again
source .venv/bin/activate
program='' stopped='' status=0
trap 'stopped=1; [[ -z $program ]] || kill -TERM "$program" || true' TERM
if [[ $stage == evaluate ]]; then
    snapshot=$("${find[@]}")
    command[-1]=reload_model_path=$snapshot
    echo "<newest>: $snapshot"
fi
"${command[@]}" &
program=$!
[[ -z $stopped ]] || kill -TERM "$program" || true      # the signal came before the number was known
wait "$program" || status=$?
if [[ -n $stopped ]]; then      # the signal ended that wait, not the program
    status=0
    wait "$program" || status=$?
    [[ $status -eq 0 ]] || scontrol requeue "${SLURM_ARRAY_JOB_ID}_$task"
fi
exit "$status"
