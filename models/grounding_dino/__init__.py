"""Grounding DINO (Liu et al. 2023): open-set detection of what a text names."""
