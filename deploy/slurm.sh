#!/bin/bash
# One study on several machines of a Slurm cluster: sbatch deploy/slurm.sh SPACE OUT [OPTION...]
#   SPACE   the search space, such as search_spaces/digits.yaml
#   OUT     the run's folder, on a file system that all machines share, or a URI such as s3://bucket/run
# Run from the checkout, with graftpop installed in .venv there (shared by all machines too).
#SBATCH --job-name=graftpop
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=graftpop-%j.log
##SBATCH --gpus-per-node=1
set -euo pipefail

space=${1:?SPACE is missing: sbatch deploy/slurm.sh SPACE OUT [OPTION...]}
out=${2:?OUT is missing: sbatch deploy/slurm.sh SPACE OUT [OPTION...]}
shift 2

export PATH="$PWD/.venv/bin:$PATH"
export GRAFTPOP_DATA="${GRAFTPOP_DATA:-$HOME/data}"

# A token of this job's own. srun hands the environment to all tasks, and no command line shows it.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE RAY_AUTH_TOKEN
# /tmp/ray may be another user's; sockets need a short path.
export RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID"
# How long the other machines wait for a head that has gone, as it does when the study is done. Less than the 16 s
# that `ray stop` may take would let the head itself end with an error.
export RAY_gcs_rpc_server_reconnect_timeout_s=30
# How long the machines wait for each other at the start.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# The first machine's address as the others know it: not the loopback that /etc/hosts may give a machine for its own
# name. Where there is nothing else, its first one: this script runs on that machine.
read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
address=$(getent ahostsv4 "$head" | awk '$1 !~ /^127\./ && !seen++ {print $1}') || true
address=${address:-$(hostname -I | awk '{print $1}')}
port=$((20000 + SLURM_JOB_ID % 10000))

# On the first machine this starts the head and runs the command, on the others it starts workers. Its `ray stop` at the
# end stops every Ray of yours on these machines, hence --exclusive. srun does not take over --cpus-per-task.
srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_NNODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" -- \
    python -m graftpop.tune --space "$space" --out "$out" --address auto "$@"
