"""A page for exploring images by their features: spaces to compare them in, a map, thumbnails."""
