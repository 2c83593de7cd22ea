"""Makes checkpoints: `python -m awp_train list`."""
