"""GLIP (Li et al. 2022): detection as the grounding of phrases, with deep image-text fusion."""
