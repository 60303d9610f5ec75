"""GLIP (Li et al. 2022): detection as phrase grounding, with deep image-text fusion."""
