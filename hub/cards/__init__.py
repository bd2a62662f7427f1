"""Model cards and MODEL_CARDS.md."""
