"""Contract of a bundle: manifest schema, image and text preprocessing, post-processing."""
