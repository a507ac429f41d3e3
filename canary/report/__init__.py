"""A decision for people and for machines."""
