"""A Ray cluster of this machine, for engines that find one running."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["running_cluster", "session_directory"]


@contextmanager
def running_cluster(cpus: int = 2) -> Iterator[None]:
    """Start it and stop it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=40,
            object_store_memory=128 << 20, _node_ip_address="127.0.0.1",
        )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def session_directory() -> Path:
    """Return where Ray keeps logs, sockets and spilled objects."""
    import ray

    node = ray._private.worker._global_node
    assert node is not None
    return Path(node.get_session_dir_path())
