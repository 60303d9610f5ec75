"""What runs an artefact: one file a runtime, behind the protocol in `base`."""
