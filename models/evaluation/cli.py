"""`openset evaluate`: measure a model on a data set, from a bundle folder or over HTTP, and write a report."""

import argparse
import logging
import time
from typing import Any

from tqdm import tqdm

from models.data.faults import counts_text
from models.data.images import DataError
from models.evaluation.absent_labels import AbsentLabelsMetric
from models.evaluation.arguments import METRICS
from models.evaluation.backends import open_backend
from models.evaluation.classification import ClassificationMetric
from models.evaluation.dataset_queries import detect_format, open_evaluation_set
from models.evaluation.detection import DetectionMetric
from models.evaluation.grounding import GroundingMetric
from models.evaluation.metrics import EvaluationSet, Metric, MetricResult
from models.evaluation.query_runner import (
    AnswerLogError,
    LeftOut,
    answer_or_fault,
    exit_status,
    logged_answers,
)
from models.evaluation.report import MARKDOWN, Section, figures_table, write_report
from models.evaluation.retrieval import RetrievalMetric

FOUND_BY_MODEL = "the annotations have scores, as a model's: figures tell how far models agree, not how right they are"


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit status is 2 for a set or model that cannot be used."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status("evaluate", evaluate, args)


def evaluate(args: argparse.Namespace) -> str:
    """Evaluate the model and write the report; the table of all figures."""
    set_format = args.format or detect_format(args.set)
    data = open_evaluation_set(
        args.set,
        set_format,
        images=args.pictures,
        label_map=args.label_map,
        split=args.split,
        limit=args.limit,
        skip=args.skip_faulty,
    )
    names = [name for name in METRICS if name in data.queries and name in (args.measures or METRICS)]
    if not names:
        requested = args.measures or list(METRICS)
        raise DataError(f"{data.name}: none of {requested} can be measured on a {set_format} set")
    sections = [_evaluate_metric(_metric(name, data, args), data, args) for name in names]
    if not any(section.result.figures for section in sections):
        first = sections[0].left_out[0].reason
        raise DataError(f"{data.name}: no image could be used; the first fault is {first}")
    about: dict[str, Any] = {"set": data.name, "format": set_format, "faulty entries left out": dict(data.faults)}
    about["models"] = sorted({section.model for section in sections})
    if data.found_by_model:
        about["note"] = FOUND_BY_MODEL
    write_report(args.out, about, sections)
    notes = [f"{data.name}: {FOUND_BY_MODEL}"] if data.found_by_model else []
    left_out = [f"{data.name}: left out as faulty: {counts_text(data.faults)}"] if data.faults else []
    left_out += [f"{one.name}: left out as faulty: {kinds}" for one in sections if (kinds := counts_text(one.by_kind))]
    return "\n".join([figures_table(sections), "", *notes, *left_out, f"wrote {args.out / MARKDOWN}"])


def _metric(name: str, data: EvaluationSet, args: argparse.Namespace) -> Metric:
    if name == "classification":
        return ClassificationMetric(data.labels, args.template or ())
    if name == "retrieval":
        return RetrievalMetric()
    if name == "detection":
        return DetectionMetric(data.labels, max_detections=args.max_detections)
    if name == "grounding":
        return GroundingMetric()
    return AbsentLabelsMetric(name)


def _evaluate_metric(metric: Metric, data: EvaluationSet, args: argparse.Namespace) -> Section:
    """Run the queries of one metric; answers resumed from the log take no time."""
    queries = data.queries[metric.name]
    faults: list[LeftOut] = []
    log = args.out / f"answers-{metric.name}.jsonl"
    override = args.detector if metric.task == "detect" else args.classifier
    with open_backend(args, task=metric.task, name=override) as backend:
        model = backend.model
        header = {
            "measure": metric.name,
            "set": data.name,
            "questions": queries.count,
            "model": [model.name, model.version, model.weights_sha256],
            "options": [args.limit, args.skip_faulty, args.max_detections, args.template],
        }
        answers = logged_answers(
            log,
            header,
            queries.draw(),
            lambda query: answer_or_fault(
                query, lambda image: metric.ask(backend, query, image), skip=args.skip_faulty
            ),
            parallel=args.parallel,
            resume=args.resume,
        )
        started, count = time.monotonic(), 0
        for query, answer in tqdm(answers, total=queries.count, desc=metric.name, unit="queries", disable=None):
            count += 1
            if (fault := LeftOut.of(answer)) is not None:
                faults.append(fault)
                continue
            try:
                metric.add(query, answer)
            except (TypeError, ValueError, IndexError, KeyError) as error:  # only a log can hold another's answer
                raise AnswerLogError(f"{log} has no answer to {query.source}: remove it, and begin anew") from error
        seconds = time.monotonic() - started
    unusable = bool(faults) and len(faults) == count
    result = MetricResult({}, notes=("No image could be used.",)) if unusable else metric.result(model)
    return Section(metric.name, f"{model.name} {model.version}", result, count, seconds, faults)
