"""A run as a RayJob of KubeRay: the manifest that attempts it until it is done.

Each retry gets a new cluster and executes the same command, which goes on where the one
before stopped: all that lasts is the run's folder, on a volume that outlives clusters.
A verdict is a success, whichever it is, so that only what broke is tried again.
"""

import json
import re
from pathlib import Path

from canary.errors import UsageError
from canary.submit import Submission

_TEMPLATE = """\
# A run of canary on Kubernetes, for KubeRay 1.2 or newer. Checked against the fields
# that KubeRay documents, never run on a cluster. Fill in what is marked with <...>: the
# image holds Ray and this package, the volume holds the folder that is mounted below,
# and outlives the pods.
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: {name}
spec:
  submissionMode: K8sJobMode
  entrypoint: {entrypoint}
  # Each retry is a new cluster, which resumes the run.
  backoffLimit: 10
  shutdownAfterJobFinishes: true
  ttlSecondsAfterFinished: 300
  rayClusterSpec:
    rayVersion: {ray_version}
    headGroupSpec:
      # The run itself is here, and nothing else.
      rayStartParams: {{num-cpus: "0", dashboard-host: 0.0.0.0}}
      template:
        spec:
          containers:
            - name: ray-head
              image: <image>
              resources: {{limits: {{cpu: "4", memory: 16Gi}}}}
              volumeMounts: [{{name: canary, mountPath: {here}}}]
          volumes:
            - {{name: canary, persistentVolumeClaim: {{claimName: <claim>}}}}
    workerGroupSpecs:
      - groupName: arms
        replicas: 1
        minReplicas: 1
        maxReplicas: 1
        rayStartParams: {{}}
        template:
          spec:
            containers:
              - name: ray-worker
                image: <image>
                resources: {{limits: {{cpu: "8", memory: 64Gi, nvidia.com/gpu: 1}}}}
                volumeMounts: [{{name: canary, mountPath: {here}}}]
            volumes:
              - {{name: canary, persistentVolumeClaim: {{claimName: <claim>}}}}
"""


def rayjob_manifest(wanted: Submission, *, ray_version: str) -> str:
    """Return the manifest, as YAML.

    Raises:
        UsageError: The run's folder lies outside the folder that the pods will see.
    """
    folder = wanted.folder
    if isinstance(folder, Path) and not folder.is_relative_to(wanted.here):
        raise UsageError(
            f"--out {folder}: pods see the current folder only; name a folder below it"
        )
    # As Kubernetes names things, and short enough for the names made from it.
    name = "canary-" + re.sub("[^a-z0-9]+", "-", wanted.run.lower())[:40].strip("-")
    # JSON text is YAML, whatever characters are in it.
    return _TEMPLATE.format(
        name=json.dumps(name),
        entrypoint=json.dumps(wanted.entrypoint),
        here=json.dumps(str(wanted.here)),
        ray_version=json.dumps(ray_version),
    )
