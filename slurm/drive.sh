# Sourced by the batch scripts: runs the driver, forwards signals to it, and queues a preempted job again.

# Slurm's warning (--signal=B:USR1@...) reaches this shell only. Trials stop at their next update and are saved; a job
# that is being cancelled or requeued gets SIGTERM instead, and Slurm decides what happens to it.
driver='' warned=''

# The driver's temporary files, for this job alone: a killed run cannot remove them, so the next one does.
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
    # A trapped signal ends `wait` early, and so does the driver's end: ask until the driver is gone.
    while true; do
        code=0
        wait "$driver" || code=$?
        kill -0 "$driver" 2>/dev/null || return 0
    done
}

# Exit with $code; a driver that was stopped by Slurm's warning (75: it can resume) is queued again.
finish() {
    rm -rf "$TMPDIR"
    if [ -n "$warned" ] && [ "$code" = 75 ] && command -v scontrol >/dev/null; then
        echo "harness: saved; job ${SLURM_JOB_ID} is queued again"
        # Only this task of an array, never all of them.
        scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    fi
    exit "$code"
}
