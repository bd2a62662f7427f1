"""Packaging models for the Hugging Face Hub."""
