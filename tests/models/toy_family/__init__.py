"""The smallest family: compares the mean colour of an image with the mean embedding of a text's tokens."""
