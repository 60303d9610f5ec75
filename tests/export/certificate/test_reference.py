"""PyTorch's reference outputs: one image and one text at a time; canaries without what parts hand to each other."""

import numpy as np
import pytest
import torch

from export.certificate.parity_cases import make_cases
from export.certificate.reference import canary_outputs, reference_outputs
from models import registry
from models.registry import FAMILIES
from server.contract.text import PromptTokenizer, SentenceTokenizer


def outputs_of(checkpoint, tokenizer_class):
    loaded = registry.load(checkpoint)
    family = FAMILIES[loaded.family]
    rules = family.serving(loaded.model, loaded.tokenizer_file).overridden(loaded.serving)
    tokenizer = tokenizer_class(loaded.tokenizer_file, rules.text)
    cases = make_cases(rules.preprocessing, tokenizer)
    return loaded.model, rules, tokenizer, cases, reference_outputs(rules, tokenizer, family.graphs(loaded), cases)


def test_embeddings_are_those_of_each_image_and_text_alone(save_checkpoint):
    model, rules, tokenizer, cases, outputs = outputs_of(save_checkpoint("clip"), SentenceTokenizer)
    case = cases[1]
    pixels = case.pixels(rules.preprocessing)
    with torch.inference_mode():
        image = model.encode_image(torch.from_numpy(pixels[2][None]))
        text = model.encode_text(torch.from_numpy(tokenizer.encode([case.texts[3]])))
    np.testing.assert_array_equal(outputs["three/image_embeds"][2], (image / image.norm())[0])
    np.testing.assert_allclose(outputs["three/text_embeds"][3], (text / text.norm())[0], rtol=1e-6)
    assert outputs["three/image_embeds"].shape[0] == len(case.images)
    assert outputs["three/text_embeds"].shape[0] == len(case.texts)


def test_each_image_of_a_detection_case_has_its_own_outputs(save_checkpoint):
    model, _, tokenizer, cases, outputs = outputs_of(save_checkpoint("detector"), PromptTokenizer)
    for case in cases:
        for index, prompt in enumerate(case.prompts(tokenizer)):
            found = {
                name: outputs[f"{case.name}/{index}/{name}"] for name in ("text_features", "token_scores", "boxes")
            }
            assert found["text_features"].shape == (len(prompt), model.config.d_model)
            assert found["token_scores"].shape == (model.config.num_queries, len(prompt))
            assert found["boxes"].shape == (model.config.num_queries, 4)
            assert outputs[f"{case.name}/{index}/decided"].dtype == np.bool_


@pytest.mark.parametrize("name", ["clip", "glip"])
def test_canary_stores_no_output_that_the_next_part_takes(save_checkpoint, name):
    loaded = registry.load(save_checkpoint(name))
    specs = FAMILIES[loaded.family].graphs(loaded)
    arrays = canary_outputs(specs)
    handed = {output for spec in specs for output in spec.outputs} & {key for spec in specs for key in spec.inputs}
    stored = {tuple(key.split("/")) for key in arrays}
    assert {(spec.name, "in", key) for spec in specs for key in spec.canary} <= stored
    last = specs[-1]
    assert {(last.name, "out", output) for output in last.outputs} <= stored
    assert not [key for _, side, key in stored if side == "out" and key in handed - last.canary.keys()]
