"""Health, models, metrics, documentation."""

import re

import pytest

from tests.server.fakes import picture

# DESIGN's metrics; dashboards and alerts depend on the names.
METRICS = {
    "openset_requests_total", "openset_rejected_total", "openset_cancelled_total", "openset_inferences_total",
    "openset_executions_total", "openset_prompt_cache_hits_total", "openset_prompt_cache_misses_total",
    "openset_prompt_cache_evictions_total", "openset_request_duration_seconds", "openset_queue_duration_seconds",
    "openset_decode_duration_seconds", "openset_preprocess_duration_seconds", "openset_text_encode_duration_seconds",
    "openset_infer_duration_seconds", "openset_postprocess_duration_seconds", "openset_batch_size",
    "openset_prompt_tokens", "openset_image_pixels", "openset_queue_depth", "openset_inflight_requests",
    "openset_prompt_cache_bytes", "openset_certificate_valid", "openset_ready", "openset_build_info",
    "openset_pool_reserved_bytes", "openset_pool_in_use_bytes", "openset_pool_high_water_bytes",
}  # fmt: skip
SECRET = "zebra"


def detect(client, **fields):
    return client.post("/detect", files=[("image", ("a.png", picture()))], data={"labels": "dog"} | fields)


def sample(client, line):
    found = re.search(rf"^{re.escape(line)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else None


def test_healthy_server_is_live_and_ready(client):
    assert client.get("/livez").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    assert sample(client, "openset_ready") == 1


def test_models_lists_certificates_tasks_defaults_and_limits(client, detector):
    response = client.get("/models")
    answer = response.json()
    assert '"max_images":16,' in response.text  # a count is no 16.0
    detect_model, encoder_model = answer["models"]
    assert detect_model["tasks"] == ["detect"]
    assert detect_model["defaults"]["box_threshold"] == 0.3
    sizes = {"min_shorter": 8, "max_shorter": 32, "min_longer": 16, "max_longer": 64}
    assert detect_model["limits"] == {"max_tokens": 64, "max_batch": 8, **sizes}
    assert detect_model["artefacts"][0]["part"] == "detector"
    assert detect_model["artefacts"][0]["certified"] is True
    assert detect_model["artefacts"][0]["provider"] == "arithmetic"
    assert "certificate" in detect_model["artefacts"][0]
    assert encoder_model["tasks"] == ["classify", "similarity"]


def test_model_card_is_served_and_named_in_models(client, detector, tmp_path):
    detector.folder = tmp_path
    (tmp_path / "MODEL_CARD.md").write_text("# A detector of doors\n", encoding="utf-8")
    with_card, without = client.get("/models").json()["models"]
    assert (with_card["card"], without["card"]) == ("models/fake-detector/card", None)
    answer = client.get("/models/fake-detector/card")
    assert (answer.status_code, answer.text) == (200, "# A detector of doors\n")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert client.head("/models/fake-detector/card").status_code == 200


@pytest.mark.parametrize(
    ("name", "detail"),
    [("fake-encoder", "the model fake-encoder has no card"), ("nobody", "there is no model 'nobody'")],
)
def test_card_that_is_not_there_is_not_found(client, name, detail):
    answer = client.get(f"/models/{name}/card")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith(detail)


def test_uncertified_artefact_shows_in_models_and_metrics(detector, start):
    detector.uncertified = {"detector": "it has no certificate"}
    client = start()
    artefact = client.get("/models").json()["models"][0]["artefacts"][0]
    assert (artefact["certified"], artefact["fault"]) == (False, "it has no certificate")
    assert sample(client, 'openset_certificate_valid{model="fake-detector",part="detector"}') == 0
    assert sample(client, 'openset_certificate_valid{model="fake-detector",part="text_encoder"}') == 1


def test_artefact_that_was_refused_shows_the_reason_in_models(detector, start):
    graph = detector.manifest.artefacts[0]
    better = graph.model_copy(update={"file": "better.onnx"})
    detector.manifest = detector.manifest.model_copy(update={"artefacts": (better, *detector.manifest.artefacts)})
    detector.refused = {"better.onnx": "it has no certificate"}
    first, second, *_ = start().get("/models").json()["models"][0]["artefacts"]
    assert first["provider"] is None
    assert (first["in_use"], first["refused"], first["certified"]) == (False, "it has no certificate", False)
    assert (second["in_use"], second["refused"], second["certified"]) == (True, None, True)


def test_dead_worker_turns_livez_red_and_answers_503(client, detector):
    def die():
        raise SystemExit

    detector.before_run = die
    assert detect(client).json()["type"] == "urn:openset:problem:worker-stopped"
    for path in ("/livez", "/readyz"):
        response = client.get(path)
        assert response.status_code == 503
        assert "fake-detector" in response.json()["detail"]
    assert detect(client).status_code == 503


def test_failed_run_is_a_500_and_the_next_is_answered(client, detector):
    def fail():
        raise RuntimeError("secret cause")

    detector.before_run = fail
    response = detect(client)
    assert (response.status_code, response.json()["type"]) == (500, "urn:openset:problem:inference-failed")
    assert "secret" not in response.text
    detector.before_run = lambda: None
    assert detect(client).status_code == 200
    assert client.get("/livez").status_code == 200


def test_numbers_that_are_not_finite_are_a_500(client, detector, monkeypatch):
    honest = type(detector)._one

    def broken(image, prompt):
        scores, boxes = honest(image, prompt)
        return scores * float("nan"), boxes

    monkeypatch.setattr(type(detector), "_one", staticmethod(broken))
    assert detect(client).status_code == 500


def test_metrics_have_the_names_dashboards_know(client):
    detect(client)
    detect(client, box_threshold="7")
    names = set(re.findall(r"^# TYPE (\S+)", client.get("/metrics").text, re.MULTILINE))
    assert names >= METRICS
    assert {name for name in names if not name.startswith("openset_")} == set()


def test_metrics_count_requests_and_refusals(client):
    detect(client)
    detect(client, box_threshold="7")
    assert sample(client, 'openset_requests_total{endpoint="/detect",status="200"}') == 1
    assert sample(client, 'openset_requests_total{endpoint="/detect",status="422"}') == 1
    assert sample(client, 'openset_rejected_total{reason="invalid-request"}') == 1
    assert sample(client, 'openset_inferences_total{model="fake-detector"}') == 1
    assert sample(client, "openset_inflight_requests") == 1, "this one"
    assert sample(client, "openset_tasks") >= 1, "this one's"


def test_user_input_is_no_metric_label(client):
    detect(client, labels=SECRET)
    detect(client, model=SECRET)
    client.get(f"/{SECRET}")
    assert SECRET not in client.get("/metrics").text


def test_prompts_are_not_logged(client, detector, caplog):
    caplog.set_level("DEBUG")

    def fail():
        raise RuntimeError("broken graph")

    detect(client, labels=SECRET)
    detect(client, labels=SECRET * 200)
    detector.before_run = fail
    detect(client, labels=SECRET)
    assert "broken graph" in caplog.text
    assert SECRET not in "".join(record.getMessage() + str(record.exc_text) for record in caplog.records
                                 if record.name.startswith("server"))  # fmt: skip


# With a slash behind it, a redirect would lose a form that curl sends, and repeat any Host header.
@pytest.mark.parametrize("path", ["/nothing", "/detect/x", "/detect/", "/models/"])
def test_unknown_path_is_a_problem(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:openset:problem:not-found"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_health_is_told_whatever_headers_a_proxy_adds(client, path):
    assert client.get(path, headers={"X-Priority": "urgent", "X-Request-Timeout-Ms": "soon"}).status_code == 200


def test_wrong_method_is_a_problem_with_allow(client):
    response = client.get("/detect")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["type"] == "urn:openset:problem:method-not-allowed"


@pytest.mark.parametrize("path", ["/detect", "/classify", "/similarity"])
def test_openapi_describes_both_bodies_and_the_problems(client, path):
    document = client.get("/openapi.json").json()
    operation = document["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    form = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    assert form["properties"]["image"]["items"]["format"] == "binary"
    assert form["additionalProperties"] is False
    assert {"200", "400", "404", "413", "415", "422", "429", "500", "503"} <= set(operation["responses"])
    problem = operation["responses"]["422"]["content"]
    assert list(problem) == ["application/problem+json"]
    assert "Problem" in document["components"]["schemas"]
