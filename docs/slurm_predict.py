"""Predict on a cluster with SLURM: every job is a worker that predicts chunks.

    pip install '.[distributed]' dask-jobqueue cryptography    # in the folder of the repository
    python slurm_predict.py --jobs 8 --cores 4 --memory 16GB --walltime 02:00:00 -- \
        MODEL IMAGE... -o OUT [any option of unetseg predict]

Run it on a node that may submit jobs and that sees the same folders as the compute nodes. What
stands after ``--`` goes to ``unetseg predict``. Jobs that wait in the queue join when they begin,
those that end are made up for by others, and the same command goes on where it was. The workers
and the scheduler talk TLS with a key made for this run, since others can reach the network of a
cluster. With ``--kind local`` the jobs are processes here: to try it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import dask
import dask_jobqueue
from dask_jobqueue.local import LocalCluster
from distributed import Security

from napari_unetseg.cli import main as unetseg

CLUSTERS = {
    "slurm": dask_jobqueue.SLURMCluster,
    "sge": dask_jobqueue.SGECluster,
    "pbs": dask_jobqueue.PBSCluster,
    "lsf": dask_jobqueue.LSFCluster,
    "local": LocalCluster,
}


def main(arguments: list[str]) -> int:
    """Start the workers, predict, and end them."""
    mine, rest = arguments, []
    if "--" in arguments:
        cut = arguments.index("--")
        mine, rest = arguments[:cut], arguments[cut + 1 :]
    options = parse(mine)
    if not rest:
        sys.exit("Nothing to predict: name MODEL, IMAGE... and -o OUT after --.")
    security = Security.temporary()
    more: dict[str, Any] = {
        name: value
        for name, value in (
            ("queue", options.queue),
            ("interface", options.interface),
            ("job_extra_directives", options.directive),
        )
        if value
    }
    shared = Path.cwd() / ".dask"  # for keys and the workers' notes; every node must see it
    shared.mkdir(exist_ok=True)
    cluster = CLUSTERS[options.kind](
        cores=options.cores,
        processes=1,
        memory=options.memory,
        walltime=options.walltime,
        security=security,
        protocol="tls://",
        shared_temp_directory=str(shared),
        local_directory=str(shared),
        scheduler_options={"dashboard_address": "127.0.0.1:8787"},  # it has no TLS
        worker_extra_args=["--nthreads", "2"],  # one reads or writes while the other predicts
        **more,
    )
    credentials = {
        "distributed.comm.tls.ca-file": security.tls_ca_file,
        "distributed.comm.tls.client.cert": security.tls_client_cert,
        "distributed.comm.tls.client.key": security.tls_client_key,
    }
    with cluster, dask.config.set(credentials):
        cluster.scale(jobs=options.jobs)
        return unetseg(["predict", *rest, "--scheduler", cluster.scheduler_address])


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the options of the jobs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=list(CLUSTERS), default="slurm")
    parser.add_argument("--jobs", type=int, default=4, help="how many workers")
    parser.add_argument("--cores", type=int, default=4, help="of a job")
    parser.add_argument("--memory", default="16GB", help="of a job")
    parser.add_argument("--walltime", default="01:00:00", help="of a job")
    parser.add_argument("--queue", help="or partition")
    parser.add_argument("--interface", help="network device of the nodes, such as ib0")
    parser.add_argument(
        "--directive",
        action="append",
        help="more for the job's head, such as --account=mine, --gres=gpu:1",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
