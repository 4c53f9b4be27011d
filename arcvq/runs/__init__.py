"""Trained runs by name of their settings, many at once, and trained models that come with the checkout."""
