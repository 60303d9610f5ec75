"""What goes wrong with an export."""


class ExportError(ValueError):
    """A model that cannot become a bundle, or a bundle that cannot be added to; the message says why."""
