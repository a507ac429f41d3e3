"""YAML text to Policy values, every error as file:line:column."""
