# Sourced by the batch scripts: runs the driver, hands signals on to it, and puts a preempted job back into the queue.

# Slurm's warning (--signal=B:USR1@...) reaches this shell only. Trials stop at their next update and are saved; a job
# that is being cancelled or requeued gets SIGTERM instead, and Slurm itself knows what becomes of it.
driver='' warned=''

# The driver's own temporary files, this job's alone: a killed run cannot remove them, so its next one does.
export TMPDIR=${HARNESS_TMP:-/tmp}/h$SLURM_JOB_ID
rm -rf "$TMPDIR"
mkdir -m 700 "$TMPDIR"

trap 'warned=yes; [ -z "$driver" ] || kill -USR1 "$driver" 2>/dev/null || :' USR1
trap '[ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || :' TERM

# drive COMMAND...: the command's exit code in $code; it is not started once the warning has come.
drive() {
    code=75
    [ -z "$warned" ] || return 0
    "$@" &
    driver=$!
    # A trapped signal ends `wait` early, the driver's own end does so too: ask until it is gone.
    while true; do
        code=0
        wait "$driver" || code=$?
        kill -0 "$driver" 2>/dev/null || return 0
    done
}

# Exit with $code; a driver that was stopped by Slurm's warning (75: the same command goes on) is queued again.
finish() {
    rm -rf "$TMPDIR"
    if [ -n "$warned" ] && [ "$code" = 75 ] && command -v scontrol >/dev/null; then
        echo "harness: saved; job ${SLURM_JOB_ID} goes back into the queue"
        # One task of an array, never all of them.
        scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    fi
    exit "$code"
}
