"""From results to pages, figures and tables."""
