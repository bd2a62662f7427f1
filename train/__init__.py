"""Pretraining: configuration, data, methods, losses, the loop and its checkpoints.

Follow an image from file to loss: `data` (decode and crop) -> `views` (augment and describe on the
device) -> `methods` (backbone, conditioned projector, loss) -> `loop` (optimiser, logs) ->
`checkpoint`.
"""
