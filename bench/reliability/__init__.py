"""Reasons to doubt a number: checks, probes, equivalent networks, the preflight."""
