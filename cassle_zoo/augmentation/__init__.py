"""What omega is, and views whose omega is known."""
