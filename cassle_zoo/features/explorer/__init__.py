"""A page to look at images by their features: spaces to compare them in, a map, thumbnails."""
