"""What every test shares."""

from hypothesis import settings

# A machine under other load is no defect of the code: examples have no deadline.
settings.register_profile("openset", deadline=None)
settings.load_profile("openset")
