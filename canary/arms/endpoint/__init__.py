"""Sending requests to OpenAI-compatible endpoints when they are due, and not later."""
