#!/bin/bash
# ray_node.sh head|worker JOB_DIR: Ray on this node of a Slurm job, until JOB_DIR/stop appears. many_nodes.sbatch starts
# one per node.
# The head writes its address to JOB_DIR/address, workers wait for it; JOB_DIR/NODE.up means that Ray runs here.
set -euo pipefail
umask 077
role=$1 job=$2 node=${SLURMD_NODENAME:-$(hostname)}

# Ray's sockets are in here: their paths may have 107 characters, and no network file system can hold them. Ray opens
# its own folder to everyone, so it gets one inside ours. The node's name is shortened to a checksum. A run of this job
# that was killed here may have left its folder behind.
tmp=${HARNESS_TMP:-/tmp}/harness-$SLURM_JOB_ID-$(cksum <<<"$node" | cut -d ' ' -f 1)
rm -rf "$tmp"
mkdir "$tmp"
ray=''
leave() {
    [ -e "$job/$node.up" ] || { [ ! -d "$job" ] || touch "$job/$node.failed"; }
    [ -z "$ray" ] || kill "$ray" 2>/dev/null || :
    # Slurm kills a step that does not end soon. Ray's agents on a worker outlive `ray start` by a minute when the head
    # is gone: they try to report the end of their node to it.
    for ((waited = 0; waited < 15; waited++)); do kill -0 "$ray" 2>/dev/null || break; sleep 0.2; done
    [ -z "$ray" ] || kill -KILL -- "-$ray" 2>/dev/null || :
    wait
    rm -rf "$tmp"
}
trap leave EXIT
trap exit TERM

# What Slurm granted on this node; Ray alone would count the whole machine.
cpus=$(env -u OMP_NUM_THREADS nproc)
[ "${SLURM_CPUS_ON_NODE:-$cpus}" -ge "$cpus" ] || cpus=$SLURM_CPUS_ON_NODE
gpus=${SLURM_GPUS_ON_NODE:-$(tr ',' '\n' <<<"${CUDA_VISIBLE_DEVICES:-}" | grep -c . || :)}
megabytes=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * cpus))}
flags=(--block --num-cpus="$cpus" --num-gpus="$gpus" --object-store-memory=100000000 --temp-dir="$tmp/ray"
    --node-name="$node" --node-manager-port=0 --object-manager-port=0 --min-worker-port=0 --max-worker-port=0
    --dashboard-agent-listen-port=0 --disable-usage-stats)
[ "$megabytes" = 0 ] || flags+=(--memory=$((megabytes * 1024 * 1024)))

export RAY_START_HOOK=harness.launch.ray_start.without_client_server
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # trials are drained by their driver, long before this
export RAY_worker_niceness=0                   # trials are what the node is there for
export RAY_memory_monitor_refresh_ms=0         # it reads the machine's memory; the limit is the job's, and Slurm enforces it
start_s=${HARNESS_START_S:-300}
export RAY_gcs_server_port_wait_time_s=$start_s
# Ray's processes get no variable that holds a secret; workers get those of cluster.pass_environment from the driver.
secrets=$(python -P -m harness.launch.environment)
clean=(env)
for name in $secrets; do clean+=(-u "$name"); done

start() {
    set -m # a process group of its own, so that all of it can be killed
    if [ "$role" = head ]; then
        "${clean[@]}" ray start --head --port=0 --include-dashboard=false "${flags[@]}" &
    else
        "${clean[@]}" ray start --address="$(cat "$job/address")" "${flags[@]}" &
    fi
    ray=$!
    set +m
}
[ "$role" = head ] || until [ -s "$job/address" ]; do
    ls "$job" >/dev/null # network file systems show a new file once its folder is listed
    sleep 0.5
done
start
began=$SECONDS
until [ -s "$tmp/ray/ray_current_cluster" ]; do # Ray writes it once it runs
    if ! kill -0 "$ray" 2>/dev/null; then
        # Ray gives a node 30 s to start, and on a loaded one that is not enough; what fails at once would fail again.
        [ $((SECONDS - began)) -ge $((start_s / 12)) ] || exit 1
        [ $SECONDS -lt "$start_s" ] || exit 1
        kill -KILL -- "-$ray" 2>/dev/null || :
        rm -rf "$tmp/ray"
        start
        began=$SECONDS
    fi
    sleep 0.2
done
if [ "$role" = head ]; then
    cp "$tmp/ray/ray_current_cluster" "$job/.address" && mv "$job/.address" "$job/address"
fi
touch "$job/$node.up"
# The job's end is a file: srun, when signalled, kills its tasks before they could clean up.
while kill -0 "$ray" 2>/dev/null && [ -d "$job" ] && ! ls "$job" | grep -qx stop; do sleep 1; done
