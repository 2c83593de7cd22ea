"""What a stranger may hand in, tried under limits: `python -m tests.hostile`, `python -m tests.hostile.fuzz`."""
