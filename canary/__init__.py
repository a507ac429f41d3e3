"""May the sparse-attention variant replace the dense one?

Shadow traffic through both, paired statistics, a go/no-go verdict per policy.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
