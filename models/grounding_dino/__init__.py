"""Grounding DINO (Liu et al. 2023): open-set object detection by text prompts."""
