"""From a checkpoint file, our own or foreign, to a timm model's weights and, if any, projector."""
