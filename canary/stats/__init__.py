"""Pure numerics: no I/O, no clock, no torch, no global state."""
