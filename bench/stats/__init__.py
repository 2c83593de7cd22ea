"""Intervals, ranks and contrasts: what counts may be taken to say."""
