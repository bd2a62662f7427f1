"""From a foreign checkpoint file to the weights of a timm model and, if it has one, a projector."""
