"""Schemas of the custom resources in docker/kubernetes, of the fields that are used there and no others.

The operators' own are in no Python package. The fields are those of KEDA 2, the Prometheus operator, KServe 0.16 and
KubeRay 1.5; parts of pods are checked as a Pod (`pods_of`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
LABELS: Schema = {"type": "object", "additionalProperties": STRING}
ANY: Schema = {}


def fields(required: Mapping[str, Schema], /, **optional: Schema) -> Schema:
    """An object with these fields only."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
        "additionalProperties": False,
    }


def many(schema: Schema) -> Schema:
    """A list that is not empty."""
    return {"type": "array", "items": schema, "minItems": 1}


def resource(spec: Schema) -> Schema:
    """A resource with this spec."""
    metadata = fields({"name": {"type": "string", "pattern": "^[a-z0-9-]+$"}}, labels=LABELS, annotations=LABELS)
    return fields({"apiVersion": STRING, "kind": STRING, "metadata": metadata, "spec": spec})


_PROMETHEUS = fields({"serverAddress": STRING, "query": STRING, "threshold": {"type": "string", "pattern": r"^\d+$"}})
_METRIC = fields(
    {"metric": fields({"backend": {"const": "prometheus"}, "serverAddress": STRING, "query": STRING})},
    target=fields({"type": {"enum": ["Value", "AverageValue"]}, "value": STRING}),
)
_POD_TEMPLATE = fields({"spec": ANY}, metadata=ANY)
_RAY_START = LABELS

SCHEMAS: dict[tuple[str, str], Schema] = {
    ("keda.sh/v1alpha1", "ScaledObject"): resource(
        fields(
            {
                "scaleTargetRef": fields({"name": STRING}),
                "triggers": many(fields({"type": {"const": "prometheus"}, "metadata": _PROMETHEUS})),
            },
            minReplicaCount=COUNT,
            maxReplicaCount=COUNT,
        )
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): resource(
        fields(
            {
                "selector": fields({"matchLabels": LABELS}),
                "podMetricsEndpoints": many(fields({"port": STRING}, path=STRING)),
            }
        )
    ),
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): resource(
        fields(
            {
                "supportedModelFormats": many(fields({"name": STRING}, version=STRING, autoSelect={"type": "boolean"})),
                "containers": many(ANY),
            },
            annotations=LABELS,
            protocolVersions=many({"enum": ["v1", "v2", "grpc-v2"]}),
            volumes=many(ANY),
        )
    ),
    ("serving.kserve.io/v1beta1", "InferenceService"): resource(
        fields(
            {
                "predictor": fields(
                    {
                        "model": fields(
                            {"modelFormat": fields({"name": STRING}), "storageUri": STRING},
                            runtime=STRING,
                            protocolVersion={"enum": ["v1", "v2", "grpc-v2"]},
                        )
                    },
                    terminationGracePeriodSeconds=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    autoScaling=fields({"metrics": many(fields({"type": {"const": "External"}, "external": _METRIC}))}),
                )
            }
        )
    ),
    ("ray.io/v1", "RayService"): resource(
        fields(
            {
                "serveConfigV2": STRING,
                "rayClusterConfig": fields(
                    {
                        "headGroupSpec": fields({"rayStartParams": _RAY_START, "template": _POD_TEMPLATE}),
                        "workerGroupSpecs": many(
                            fields(
                                {"groupName": STRING, "rayStartParams": _RAY_START, "template": _POD_TEMPLATE},
                                replicas=COUNT,
                                minReplicas=COUNT,
                                maxReplicas=COUNT,
                            )
                        ),
                    },
                    rayVersion=STRING,
                    enableInTreeAutoscaling={"type": "boolean"},
                ),
            }
        )
    ),
}


def pods_of(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The pods that a custom resource describes."""
    spec = document["spec"]
    if document["kind"] == "ServingRuntime":
        specs = [{name: spec[name] for name in ("containers", "volumes")}]
    elif document["kind"] == "RayService":
        cluster = spec["rayClusterConfig"]
        specs = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    else:
        specs = []
    for one in specs:
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": one}
