"""Records on disk: written once, read with suspicion, found again by one disposable index."""
