"""Model zoo: official checkpoints by name, and their repositories on the Hugging Face hub.

The repositories are named by the models' own pages: the model cards of OpenAI and IDEA-Research, and for GLIP the model
zoo in microsoft/GLIP's README.
"""

from dataclasses import dataclass

HF_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Official:
    """An official checkpoint.

    weights: names of files with the same weights, in order of preference; the first that the repository has is fetched.
    config: file beside weights whose shapes do not determine the model. family and variant: of the model, as
    `models.registry` and the family's configs name them.
    """

    title: str
    repository: str
    licence: str
    family: str
    variant: str
    weights: tuple[str, ...] = HF_WEIGHTS
    config: str | None = "config.json"


OFFICIAL = {
    "clip-vit-base-patch32": Official(
        "CLIP ViT-B/32", "openai/clip-vit-base-patch32", "MIT", family="clip", variant="ViT-B/32"
    ),
    "clip-vit-base-patch16": Official(
        "CLIP ViT-B/16", "openai/clip-vit-base-patch16", "MIT", family="clip", variant="ViT-B/16"
    ),
    "clip-vit-large-patch14": Official(
        "CLIP ViT-L/14", "openai/clip-vit-large-patch14", "MIT", family="clip", variant="ViT-L/14"
    ),
    "grounding-dino-tiny": Official(
        "Grounding DINO Swin-T",
        "IDEA-Research/grounding-dino-tiny",
        "Apache-2.0",
        family="grounding_dino",
        variant="swin_t",
    ),
    "grounding-dino-base": Official(
        "Grounding DINO Swin-B",
        "IDEA-Research/grounding-dino-base",
        "Apache-2.0",
        family="grounding_dino",
        variant="swin_b",
    ),
    "glip-tiny": Official(
        "GLIP-T",
        "GLIPModel/GLIP",
        "MIT",
        family="glip",
        variant="glip_t",
        weights=("glip_tiny_model_o365_goldg_cc_sbu.pth",),
        config=None,
    ),
    "glip-large": Official(
        "GLIP-L",
        "GLIPModel/GLIP",
        "MIT",
        family="glip",
        variant="glip_l",
        weights=("glip_large_model.pth",),
        config=None,
    ),
}
