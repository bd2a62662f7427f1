"""Pretraining, from images to a run: configuration, data, methods, the loop and its checkpoints.

Follow an image from file to loss: `data.loading` (decode and crop) -> `data.views` (augment and
describe on the device) -> `methods` (backbone, conditioned projector, loss) -> `trainer`
(optimiser, checkpoints).
"""
