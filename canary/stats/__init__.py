"""Pure numerics: no I/O, no clock, no torch, no global state."""

from canary.stats.betting import (
    betting_log_e,
    betting_mean_bounds,
    paired_log_e,
    paired_mean_bounds,
)
from canary.stats.bootstrap import block_ratio_bounds, cluster_mean_bounds
from canary.stats.finite import finite_log_e, finite_mean_bounds
from canary.stats.fixed import mcnemar_exact, tango_interval
from canary.stats.multiple import e_bh, harm_mixture, holm
from canary.stats.onset import late_onset_log_e
from canary.stats.planning import (
    fixed_pairs_needed,
    least_units,
    pairs_needed,
    quantile_pairs_needed,
    units_needed_simulated,
)
from canary.stats.quantiles import paired_quantile_log_e, quantile_ratio_bounds
from canary.stats.ranks import quantile_ranks, share_bounds

__all__ = [
    "betting_log_e",
    "betting_mean_bounds",
    "block_ratio_bounds",
    "cluster_mean_bounds",
    "e_bh",
    "finite_log_e",
    "finite_mean_bounds",
    "fixed_pairs_needed",
    "harm_mixture",
    "holm",
    "late_onset_log_e",
    "least_units",
    "mcnemar_exact",
    "paired_log_e",
    "paired_mean_bounds",
    "paired_quantile_log_e",
    "pairs_needed",
    "quantile_pairs_needed",
    "quantile_ranks",
    "quantile_ratio_bounds",
    "share_bounds",
    "tango_interval",
    "units_needed_simulated",
]
