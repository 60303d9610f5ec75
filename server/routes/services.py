"""The services that an app gives to its routes."""

from fastapi import Request

from server.inference.pipeline import Pipeline
from server.jobs.jobs import Jobs
from server.registry.model_registry import ModelRegistry


def pipeline_of(request: Request) -> Pipeline:
    """The pipeline of the app that handles `request`."""
    pipeline: Pipeline = request.app.state.pipeline
    return pipeline


def jobs_of(request: Request) -> Jobs:
    """The jobs of the app that handles `request`."""
    jobs: Jobs = request.app.state.jobs
    return jobs


def registry_of(request: Request) -> ModelRegistry:
    """The model registry of the app that `request` came to."""
    registry: ModelRegistry = request.app.state.registry
    return registry
