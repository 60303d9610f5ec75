"""What a request to detect asks of a model: a prompt for each pass, and thresholds."""

from dataclasses import fields

from server.contract.manifest import DetectionRules
from server.contract.postprocess import Thresholds
from server.contract.text import Prompt, PromptTokenizer
from server.schemas import DetectRequest


def prompts_of(request: DetectRequest, tokenizer: PromptTokenizer, max_passes: int) -> tuple[Prompt, ...]:
    """The prompt of each pass; PromptTooLong where they are more than `max_passes`."""
    if request.prompt is None:
        return tokenizer.label_passes(request.labels, max_passes=max_passes)
    return tokenizer.caption_passes(request.prompt, max_passes=max_passes)


def thresholds_of(request: DetectRequest, rules: DetectionRules) -> Thresholds:
    """The request's thresholds, the model's own where it does not say."""
    defaults = Thresholds.of(rules)
    names = [field.name for field in fields(Thresholds)]
    asked = {name: getattr(request, name) for name in names}
    return Thresholds(**{name: getattr(defaults, name) if asked[name] is None else asked[name] for name in names})
