"""Every error has a status and a stable type, and says nothing it should not."""

import pytest
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from server import errors
from server.contract.text import PromptError, PromptTooLong
from server.requests import ClassifyRequest, DetectRequest

GROUPS = {errors.Fault, errors.RequestFault, errors.ServiceFault, errors.Overload}

# Clients depend on these: change none, only add.
TYPES = {
    errors.MalformedRequest: (400, "malformed-request"),
    errors.MalformedBody: (400, "malformed-body"),
    errors.Unauthorized: (401, "unauthorized"),
    errors.Forbidden: (403, "forbidden"),
    errors.UnknownModel: (404, "unknown-model"),
    errors.UnknownJob: (404, "unknown-job"),
    errors.NotAcceptable: (406, "not-acceptable"),
    errors.BodyTimeout: (408, "body-timeout"),
    errors.ChangeInProgress: (409, "change-in-progress"),
    errors.BundleNameTaken: (409, "bundle-name-taken"),
    errors.JobUnfinished: (409, "job-unfinished"),
    errors.ModelChanged: (409, "model-changed"),
    errors.BodyTooLarge: (413, "body-too-large"),
    errors.ImageTooLarge: (413, "image-too-large"),
    errors.UnsupportedBody: (415, "unsupported-body"),
    errors.UnsupportedImage: (415, "unsupported-image"),
    errors.BrokenImage: (422, "broken-image"),
    errors.InvalidRequest: (422, "invalid-request"),
    errors.BundleRefused: (422, "bundle-refused"),
    errors.UrlRefused: (422, "url-refused"),
    errors.UrlFailed: (424, "url-failed"),
    errors.UnsuitableModel: (422, "unsuitable-model"),
    PromptError: (422, "unusable-prompt"),
    PromptTooLong: (422, "prompt-too-long"),
    errors.QueueFull: (429, "queue-full"),
    errors.TooManyRequests: (429, "too-many-requests"),
    errors.TooManyJobs: (429, "too-many-jobs"),
    errors.ClientGone: (499, "client-gone"),
    errors.InferenceFailed: (500, "inference-failed"),
    errors.MemoryExhausted: (503, "memory-exhausted"),
    errors.NotReady: (503, "not-ready"),
    errors.WorkerStopped: (503, "worker-stopped"),
    errors.DeadlinePassed: (504, "deadline-passed"),
}


def descendants(cls):
    return {cls}.union(*(descendants(child) for child in cls.__subclasses__()))


def test_every_error_class_has_a_status_and_type():
    assert (descendants(errors.Fault) - GROUPS) | descendants(PromptError) == set(errors.KINDS)


def test_types_and_statuses_stay_as_they_were():
    assert {cls: (kind.status, kind.slug) for cls, kind in errors.KINDS.items()} == TYPES


def test_types_are_distinct():
    assert len({kind.slug for kind in errors.KINDS.values()}) == len(errors.KINDS)


def test_tree_at_the_top_names_every_class():
    assert all(cls.__name__ in errors.__doc__ for cls in errors.KINDS)


@pytest.mark.parametrize(("status", "slug"), [(404, "not-found"), (405, "method-not-allowed"), (426, "http-426")])
def test_framework_refusals_have_types_too(status, slug):
    document = errors.problem(HTTPException(status))
    assert (document["status"], document["type"]) == (status, f"urn:openset:problem:{slug}")


def test_unforeseen_error_keeps_its_message():
    document = errors.problem(RuntimeError("secret path /etc"))
    assert document["status"] == 500
    assert "secret" not in str(document)


def test_overload_says_when_to_come_back():
    assert errors.problem_response(errors.QueueFull("full", retry_after=7)).headers["Retry-After"] == "7"


def refusal(model, **fields):
    with pytest.raises(ValidationError) as caught:
        model(**fields)
    return errors.invalid_request(caught.value)


def test_validation_error_lists_field_and_reason_without_the_value():
    fault = refusal(DetectRequest, image=b"\x89PNG", labels=["dog"], box_threshold="SECRET", colour="SECRET")
    assert [(entry.field, entry.reason) for entry in fault.faults] == [
        ("box_threshold", "Input should be a valid number, unable to parse string as a number"),
        ("colour", "there is no such field"),
    ]
    assert "SECRET" not in str(errors.problem(fault))


def test_bad_base64_is_not_echoed():
    fault = refusal(ClassifyRequest, image="SECRET!", labels=["dog"])
    assert [(entry.field, entry.reason) for entry in fault.faults] == [("image", "the image is not valid base64")]
    assert "SECRET" not in str(errors.problem(fault))


def test_long_unknown_field_name_is_cut():
    fault = refusal(ClassifyRequest, image=b"x", labels=["dog"], **{"x" * 5000: 1})
    assert len(fault.faults[0].field) <= 62


def test_item_of_a_list_is_named_by_its_place():
    fault = refusal(ClassifyRequest, image=b"x", labels=["dog", " "])
    assert fault.faults[0].field == "labels.1"
    assert fault.faults[0].reason == "a text must contain a visible character"
