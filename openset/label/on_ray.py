"""Workers on a Ray cluster: each an actor that holds the model, and asks it as a job in one process does.

Actors rather than Ray Data, which batches pictures before the model's own queue does, repeats whatever ends a process
without a bound, and reads everything again to go on with a job.
"""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from openset.answerer import NoAnswers, open_answerer
from openset.label.detector import ModelDetector, unreadable
from openset.label.results_log import PictureResult
from openset.label.worker_pool import WorkerEnded, WorkerModel, WorkerPool
from openset.sources import MediaFile

if TYPE_CHECKING:
    from server.cluster.actors import Actor


class LoadedPicture(NamedTuple):
    """A picture that was read where the job was started: another machine has other files."""

    name: str
    data: bytes

    def read(self) -> bytes:
        """The bytes."""
        return self.data


class LabelActor:
    """The detector in an actor's process, within the actor's resources."""

    def __init__(self, model: argparse.Namespace, request: Mapping[str, Any]) -> None:
        self._options, self._request = model, request

    def ready(self) -> WorkerModel:
        """Load the model, for all calls that follow."""
        from server.cluster.actors import within_actor

        model = open_answerer(self._options, "detect", within=within_actor)
        self._detector = ModelDetector(model, self._request)
        return WorkerModel(model.name, model.weights_sha256)

    def label(self, picture: MediaFile | LoadedPicture) -> PictureResult:
        """Find what the job asks for."""
        return self._detector.label(picture)


class RayWorker:
    """A worker that is an actor; pictures of this machine are sent to it, those at addresses it reads itself."""

    def __init__(self, actor: "Actor") -> None:
        self._actor = actor

    def ready(self) -> WorkerModel:
        model: WorkerModel = self._call("ready")
        return model

    def label(self, picture: MediaFile) -> PictureResult:
        try:
            sent = picture if picture.filesystem else LoadedPicture(picture.name, picture.read())
        except OSError as error:
            return unreadable(picture, error)
        result: PictureResult = self._call("label", sent)
        return result

    def stop(self) -> None:
        self._actor.stop()

    def _call(self, method: str, *given: Any) -> Any:
        from server.cluster.actors import ActorEnded

        try:
            return self._actor.call(method, *given)
        except ActorEnded as error:
            raise WorkerEnded(str(error)) from None


@contextmanager
def ray_pool(args: argparse.Namespace, request: Mapping[str, Any]) -> Iterator[WorkerPool]:
    """Workers on the cluster that the command's options name, which it leaves at the end; NoAnswers."""
    try:
        from server.cluster.actors import Actor, connect, disconnect, plan
        from server.cluster.cli import ClusterError
    except ModuleNotFoundError as error:
        from server.installation import install_command

        raise NoAnswers(f"--ray needs {error.name}: {install_command(('cpu', 'cluster'))}") from None
    # Actors have working folders of their own.
    bundle = [Path(path).absolute() for path in args.bundle or ()]
    model = argparse.Namespace(url=None, bundle=bundle, model=args.model, allow_uncertified=args.allow_uncertified)
    try:
        connect(args.ray)
    except ClusterError as error:
        raise NoAnswers(str(error)) from None
    try:
        count, resources = plan(args.actors)

        def start() -> RayWorker:
            return RayWorker(Actor(LabelActor, model, request, resources=resources, parallel=args.parallel))

        pool = WorkerPool(start, count=count, parallel=args.parallel)
        try:
            yield pool
        finally:
            pool.close()
    finally:
        disconnect()
