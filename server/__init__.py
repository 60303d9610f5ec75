"""The Openset server: answers open-set vision requests from bundles, without PyTorch."""
