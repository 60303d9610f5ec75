"""POST /embed: unit vectors of images, texts, or both, whose dot products are the cosines of /similarity."""

import base64

import numpy as np
import pytest

from tests.server.fakes import picture

IMAGES = [base64.b64encode(picture(colour)).decode() for colour in ("red", "lime")]
TEXTS = ["r", "g", "b"]


def test_dot_products_are_the_cosines_of_similarity(client):
    answer = client.post("/embed", json={"images": IMAGES, "texts": TEXTS}).json()
    images, texts = np.asarray(answer["images"]), np.asarray(answer["texts"])
    assert np.linalg.norm(images, axis=1) == pytest.approx(1, abs=1e-5)
    cosines = client.post("/similarity", json={"images": IMAGES, "texts": TEXTS}).json()["similarity"]
    assert images @ texts.T == pytest.approx(np.asarray(cosines), abs=1e-5)


def test_images_alone_and_texts_alone_are_embedded(client):
    both = client.post("/embed", json={"images": IMAGES, "texts": TEXTS}).json()
    images = client.post("/embed", files=[("image", ("a", picture("red"))), ("image", ("b", picture("lime")))]).json()
    texts = client.post("/embed", json={"texts": TEXTS}).json()
    raw = client.post("/embed", content=picture("red"), headers={"Content-Type": "image/png"}).json()
    assert (images["images"], images["texts"]) == (both["images"], [])
    assert (texts["images"], texts["texts"]) == ([], both["texts"])
    assert raw["images"] == both["images"][:1]


def test_nothing_to_embed_is_refused(client):
    response = client.post("/embed", json={})
    assert response.status_code == 422
    assert "give images, 'texts' or both" in response.text


def test_model_without_embeddings_is_refused(client):
    assert client.post("/embed", json={"texts": TEXTS, "model": "fake-detector"}).status_code == 422
