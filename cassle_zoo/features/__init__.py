"""From images to features, and neighbours among features."""
