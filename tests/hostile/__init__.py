"""What a stranger may hand in, tried under limits (`python -m tests.hostile`) or damaged at random."""
