"""Arms in Ray actors: a process each, on a local Ray or on a cluster.

Durations are measured inside the actor and only durations travel, so Ray's own
milliseconds are in no result. Ray's retries are off: they would answer twice.
"""

import os

# Ray would print, at any node's death, the end of its log into what we print, whatever
# ray.init is told. Its own files keep all of it, and we say what a loss means.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")

from canary.arms.ray.cluster import ray_cluster
from canary.arms.ray.start import start_ray_arms

__all__ = ["ray_cluster", "start_ray_arms"]
