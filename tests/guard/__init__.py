"""The guard of a refactoring: what the base commit answers, the new one answers to the bit."""
