"""Observations on disk and folded into what the judge reads."""
