"""What every room may use and what knows nothing of models: errors, configuration checks, files, images, devices, seeds."""
