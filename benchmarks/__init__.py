"""What ``make bench`` runs: ratios against references measured in the same run, never times against the clock alone."""
