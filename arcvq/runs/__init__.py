"""Training runs: their settings, many at once, and trained models that come with arcvq."""
