#!/usr/bin/env bash
# Train configs × folds on a SLURM cluster, one array task each; to be submitted from the repository's root.
#
#   sbatch scripts/slurm_array.sh                                                # the four configs below, folds 0 to 4
#   sbatch --array=0-4 --gres=gpu:4 scripts/slurm_array.sh cmr_setting1 -- seed=1
#   bash scripts/slurm_array.sh --dry-run 7 [configs…] [-- options]              # print what task 7 would run
#
#   configs   task t trains config t / 5 on fold t % 5, so n of them are  --array=0-(5n − 1)
#   options   as for train.py, such as  encoder=resnet50 adnet
#
# A task that was given several GPUs, or with --nodes several machines, uses all of them by way of torchrun. Two minutes before its
# time is over, training is told to stop, saves a snapshot, and the task is queued again; it goes on from there. So does one that
# was preempted. Make .venv first (bash scripts/run_tests.sh does).

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

dry_run='' task=${SLURM_ARRAY_TASK_ID:-}
if [[ ${1:-} == --dry-run ]]; then
    dry_run=1 task=${2:-$task}
    shift $(($# < 2 ? 1 : 2))
fi
configs=() n_folds=5
while [[ $# -gt 0 && $1 != -- ]]; do configs+=("$1"); shift; done
[[ $# -eq 0 ]] || shift
[[ ${#configs[@]} -gt 0 ]] || configs=(chaost2_setting1 chaost2_setting2_liver_spleen chaost2_setting2_kidneys cmr_setting1)
n_tasks=$((n_folds * ${#configs[@]}))
[[ $task =~ ^[0-9]+$ && $task -lt $n_tasks ]] || {
    echo "error: task: got '$task', allowed with ${#configs[@]} configs: 0 to $((n_tasks - 1)) (--help explains)" >&2; exit 2; }

n_gpus=${SLURM_GPUS_ON_NODE:-1} n_machines=${SLURM_NNODES:-1}
if [[ $n_machines -gt 1 ]]; then
    [[ -n $dry_run ]] && host="<first machine>" || host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    launch=(srun --ntasks-per-node=1 torchrun "--nnodes=$n_machines" "--nproc-per-node=$n_gpus" --max-restarts=3
            "--rdzv-id=${SLURM_JOB_ID:-0}" --rdzv-backend=c10d "--rdzv-endpoint=$host:$((29500 + task))")
elif [[ $n_gpus -gt 1 ]]; then
    launch=(torchrun --standalone "--nproc-per-node=$n_gpus" --max-restarts=3)
else
    launch=(python)
fi
command=("${launch[@]}" train.py with "${configs[task / n_folds]}" "eval_fold=$((task % n_folds))" resume=auto "$@")
echo "task $task: ${command[*]}"
[[ -z $dry_run ]] || exit 0

cd "$root"
export PYTHONUTF8=1
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1     # torchrun on several machines: addresses are forgotten when it starts again
source .venv/bin/activate
training='' stopped='' status=0
trap 'stopped=1; [[ -z $training ]] || kill -TERM "$training" || true' TERM
"${command[@]}" &
training=$!
[[ -z $stopped ]] || kill -TERM "$training" || true     # the signal came before the number was known
wait "$training" || status=$?
if [[ -n $stopped ]]; then      # the signal ended that wait, not the training
    status=0
    wait "$training" || status=$?
    [[ $status -eq 0 ]] || scontrol requeue "${SLURM_ARRAY_JOB_ID}_$task"
fi
exit "$status"
