"""Arms in Ray actors: a process each, on a local Ray or on a cluster.

Durations are measured inside the actor and only durations travel, so Ray's own
milliseconds are in no result. Ray's retries are off: they would answer twice.
"""

from canary.arms.ray.cluster import ray_cluster
from canary.arms.ray.replicas import start_ray_arms

__all__ = ["ray_cluster", "start_ray_arms"]
