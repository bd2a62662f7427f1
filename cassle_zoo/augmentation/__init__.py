"""The descriptors that make up omega, and views whose omega is known."""
