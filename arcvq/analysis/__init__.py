"""What can be measured on trained models."""
