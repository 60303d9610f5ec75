"""Models to bundles: one file a family says what its graphs are and how they are served, the rest does it."""
