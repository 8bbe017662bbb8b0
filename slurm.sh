#!/bin/bash
# One task of a Slurm array that shares a sweep. `make slurm` submits it, with the sweep's command line as its arguments.
#
# Task i of n works on every n-th trial from the i-th on. It may be killed, preempted and requeued at any moment: finished trials
# are rows, the others go on from their checkpoint once the lease of the dead task has expired. A minute before the task's time is
# up Slurm sends USR1 to this script alone; on its TERM sweep.py saves and exits 143, and the task requeues itself. USR1, because
# TERM is also what scancel sends, and a cancelled task must stay so. The task that ends last finds every row, prints the ranking
# and writes best.json. Flags of sbatch, as in `make slurm SBATCH="--partition=gpu --gres=gpu:1 --time=4:00:00"`, precede these:
#SBATCH --job-name=longtail
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@60
set -u
echo "task $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT on $SLURMD_NODENAME, requeued ${SLURM_RESTART_COUNT:-0} times"

# Not every cluster binds a task to its CPUs; torch must not take those of its neighbours.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
"$@" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" &
sweep=$!
signal=
trap 'signal=TERM' TERM # sent to sweep.py too: outlive it, or Slurm kills it before it has saved
trap 'signal=USR1; kill -TERM $sweep' USR1
while
    seen=$signal
    wait $sweep
    code=$?
    [ "$signal" != "$seen" ] # a signal ends the wait, not sweep.py
do :; done

if [ "$signal" = USR1 ] && [ $code = 143 ]; then
    echo "task $SLURM_ARRAY_TASK_ID: out of time, saved; back to the queue"
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
