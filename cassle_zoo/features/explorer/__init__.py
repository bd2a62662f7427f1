"""A page for exploring images by their features: spaces to compare them in, and a map."""
