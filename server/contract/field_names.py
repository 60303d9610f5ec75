"""Field names that clients know from elsewhere, for requests that use them here."""

from collections.abc import Collection
from difflib import get_close_matches

# Names in tutorials and other services' APIs, and the fields that may be meant, of which an endpoint has some.
_MEANT = {
    ("image", "images"): (
        *("file", "files", "img", "imgs", "picture", "pictures", "photo", "photos", "pic", "upload", "data", "bytes"),
        *("image_file", "image_files", "imagefile", "image_data", "image_bytes", "image_base64", "base64", "b64"),
        *("base64_image", "input", "inputs", "input_image", "instances", "frame", "content"),
    ),
    ("image_url", "image_urls"): ("url", "urls", "uri", "image_uri", "img_url", "link"),
    ("labels", "texts"): (
        *("label", "labels", "class", "classes", "class_names", "categories", "category", "tags"),
        *("candidate_labels", "candidates"),
        *("names", "objects", "queries", "text_queries", "targets", "vocabulary"),
    ),
    ("prompt", "texts", "labels"): (
        *("text", "texts", "prompts", "prompt", "caption", "captions", "text_prompt", "query", "phrase", "phrases"),
        *("sentence", "sentences", "text_input", "q"),
    ),
    ("label_thresholds",): ("thresholds", "class_thresholds", "score_thresholds", "per_label_thresholds"),
    ("box_threshold",): ("threshold", "conf", "confidence", "score_threshold", "conf_threshold", "min_score"),
    ("nms_across_labels",): ("agnostic_nms", "class_agnostic_nms", "class_agnostic", "agnostic"),
    ("shorter",): ("imgsz", "img_size", "image_size", "input_size", "size", "min_size", "shortest_edge", "resolution"),
    ("longer",): ("max_size", "longest_edge", "long_side", "max_side", "max_resolution"),
    ("on_error",): ("errors", "skip", "skip_errors", "ignore_errors", "partial"),
    ("nms_iou",): ("iou", "nms", "iou_threshold", "nms_threshold", "overlap"),
    ("max_detections", "top_k"): ("top", "topk", "k", "limit", "max_det", "max_results", "num_results", "n"),
    ("templates",): ("template", "hypothesis_template", "prompt_template"),
    ("model",): ("model_name", "model_id", "bundle", "family"),
    ("box_format",): ("format", "boxes", "box_type", "bbox_format"),
    ("multi_label",): ("multilabel", "multi_class", "sigmoid"),
    ("embeddings",): ("embedding", "embed", "features", "return_embeddings"),
    ("path",): ("bundle", "folder", "dir", "directory", "name"),
}


def no_such_field(name: str, fields: Collection[str]) -> str:
    """The reason why a field is refused, with the one of `fields` that was probably meant."""
    known = name.strip().lower().replace("-", "_").removesuffix("[]")
    meant = next((field for field in fields if field == known), None)
    meant = meant or next(
        (field for group, aliases in _MEANT.items() if known in aliases for field in group if field in fields), None
    )
    if meant is None and len(known) <= 60:
        meant = next(iter(get_close_matches(known, fields, n=1, cutoff=0.75)), None)
    return "there is no such field" + (f": did you mean {meant}?" if meant else "")
