"""From checked files to a timm model."""
