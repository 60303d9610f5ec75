"""What a bundle is and means: its schema, image and text preprocessing, and post-processing."""
