"""POST /similarity: cosines, a row per image and a column per text."""

import base64

import numpy as np
import pytest

from tests.server.fakes import picture


def body(*colours, **fields):
    return {"images": [base64.b64encode(picture(colour)).decode() for colour in colours], **fields}


def test_matrix_has_a_row_per_image_and_a_column_per_text(client):
    answer = client.post("/similarity", json=body("red", "lime", texts=["r", "g", "b"])).json()
    matrix = np.asarray(answer["similarity"])
    assert matrix.shape == (2, 3)
    assert matrix.argmax(1).tolist() == [0, 1]
    assert answer["logit_scale"] == 10
    assert "embeddings" not in answer
    assert answer["model"]["name"] == "fake-encoder"


def test_embeddings_are_returned_when_asked_for(client):
    answer = client.post("/similarity", json=body("red", "lime", texts=["r", "g", "b"], embeddings=True)).json()
    images, texts = (np.asarray(answer["embeddings"][side]) for side in ("images", "texts"))
    assert np.linalg.norm(images, axis=1) == pytest.approx(1, abs=1e-5)
    assert images @ texts.T == pytest.approx(np.asarray(answer["similarity"]), abs=1e-5)


def test_form_takes_repeated_texts(client):
    answer = client.post("/similarity", files=[("image", ("a.png", picture()))], data={"texts": ["r", "g"]}).json()
    assert len(answer["similarity"][0]) == 2


def test_texts_are_bounded(start):
    response = start(max_labels=2).post("/similarity", json=body("red", texts=["a", "b", "c"]))
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "texts")
