"""A model that answers for pictures: one of this process, or one at a server. Commands ask both in the same way."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openset.client import Client
from openset.command_options import API_KEY, api_key
from openset.errors import ClientError, ImageError, ProblemError

if TYPE_CHECKING:
    from server.settings import Settings

TIMEOUT_S = 300.0
# Problems of one picture; any other would meet the next picture too.
_OF_PICTURE = {"broken-image", "image-too-large", "body-too-large", "unsupported-image"}
Task = Literal["detect", "classify", "similarity"]


class PictureFault(Exception):
    """A picture that gets no answer, while others may; the message is one sentence."""


class NoAnswers(Exception):
    """A model that gives no answers to such requests; the message is one sentence."""


@dataclass(frozen=True)
class Answerer:
    """A model of one task, which threads may share; `ask` and `draw` raise PictureFault or NoAnswers.

    ask: the answer for one image (a path, an address or bytes) and the request's fields. draw: the answer, and the
    image as PNG with the boxes drawn on it; None at a server.
    """

    name: str
    weights_sha256: str
    ask: Callable[..., Any]
    draw: Callable[..., tuple[Any, bytes]] | None
    close: Callable[[], None]


def open_answerer(
    args: argparse.Namespace, task: Task, *, within: "Callable[[Settings], Settings] | None" = None
) -> Answerer:
    """Open the model that a command's options name; NoAnswers says why there is none.

    `within` narrows the settings of a model in this process.
    """
    if args.url:
        return _at_server(args.url, api_key(args), args.model, task)
    return _in_process(args.bundle or (), args.model, task, within, allow_uncertified=args.allow_uncertified)


def _in_process(
    bundles: Sequence[Path],
    model: str | None,
    task: Task,
    within: "Callable[[Settings], Settings] | None",
    **settings: Any,
) -> Answerer:
    from openset.predictor import load_predictor

    load = load_predictor()
    from server.contract.manifest import BundleError
    from server.contract.text import PromptError
    from server.errors import Fault, kind_of
    from server.registry.model_cache import bundles_of
    from server.settings import SettingsError, read_settings, readable_formats

    try:
        own = {"image_formats": readable_formats()}  # the user's pictures are no stranger's
        settings |= {"bundle": bundles_of(model, bundles), "warm_up": "none"}
        chosen = read_settings(defaults=own, **settings)
        predictor = load(within(chosen) if within else chosen, task=task)
    except (BundleError, SettingsError) as error:
        raise NoAnswers(str(error)) from error

    def asked(method: Callable[..., Any]) -> Callable[..., Any]:
        def ask(image: Any, **fields: Any) -> Any:
            try:
                return method(image, model=model, **fields)
            except (Fault, PromptError) as error:
                if kind_of(error).slug in _OF_PICTURE:
                    raise PictureFault(str(error)) from error
                raise NoAnswers(str(error)) from error

        return ask

    try:
        names = [(each.name, each.family, each.weights_sha256) for each in predictor.models]
        name, sha256 = _chosen(names, model, task)
    except NoAnswers:
        predictor.close()
        raise
    return Answerer(name, sha256, asked(getattr(predictor, task)), asked(predictor.detect_drawn), predictor.close)


def _at_server(url: str, key: str | None, model: str | None, task: Task) -> Answerer:
    try:
        client = Client(url, api_key=key, timeout=TIMEOUT_S)
    except (ClientError, ValueError) as error:
        raise NoAnswers(str(error)) from error

    def ask(image: Any, *, box_format: Any = None, **fields: Any) -> Any:
        try:
            answer: Any = getattr(client, task)(image, model=model, **fields)
        except ImageError as error:
            raise PictureFault(str(error)) from error
        except ProblemError as error:
            if error.type.rpartition(":")[2] in _OF_PICTURE:
                raise PictureFault(error.detail) from error
            raise NoAnswers(str(error)) from error
        except ClientError as error:
            raise NoAnswers(str(error)) from error
        for result in answer.results if box_format else ():
            for found, box in zip(result.detections, result.boxes(box_format), strict=True):
                found.box = box
        return answer

    try:
        models = [each for each in client.models().models if task in each.tasks]
        names = [(each.name, each.family, each.weights_sha256) for each in models]
        name, sha256 = _chosen(names, model, task)
    except (NoAnswers, ClientError) as error:
        client.close()
        refused = isinstance(error, ProblemError) and error.status == 401
        advice = f"; give it by --api-key or {API_KEY}" if refused else ""
        raise NoAnswers(f"{error}{advice}") from error
    return Answerer(name, sha256, ask, None, client.close)


def _chosen(models: Sequence[tuple[str, str, str]], name: str | None, task: Task) -> tuple[str, str]:
    """Name and weights' hash of the model called `name`, or of that family; without a name of the first."""
    for own, family, sha256 in models:
        if name in (None, own, family):
            return own, sha256
    names = ", ".join(own for own, _, _ in models) or "none"
    named = "model" if name is None else f"model {name!r}"
    raise NoAnswers(
        f"there is no {named} that can {task}; there are: {names}; openset models lists all to be had, and openset"
        " pull NAME fetches one"
    )
