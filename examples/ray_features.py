"""Extract features of a folder with Ray Data, into Parquet files.

Shows     an Extractor as a stage of a Ray pipeline: every worker loads the model once; on a cluster
          with GPUs, --gpus 1 gives each worker its own.
Needs     pip install "cassle-zoo[ray]"
Run       python examples/ray_features.py                 # on the package's sample images
          python examples/ray_features.py photos/ --workers 8 --gpus 1
          python examples/ray_features.py s3://bucket/photos -o s3://bucket/features
Look at   OUT/*.parquet: columns `path` and `features`. One machine needs no Ray:
          `cassle-zoo features` does the same, and continues after interruptions (docs/scaling.md).
"""

import argparse
from typing import Any

import numpy as np
import ray

from cassle_zoo import Extractor
from cassle_zoo.common.images import UnreadableImageError, open_image
from cassle_zoo.features.gallery import SAMPLES

IMAGES = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "heic"]


def decode(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a file's image; nothing if it cannot be read (Ray's read_images would stop there)."""
    try:
        return [{"path": row["path"], "image": np.asarray(open_image(row["bytes"]))}]
    except UnreadableImageError as error:
        print(f"left out {row['path']}: {error.reason}")
        return []


def main() -> None:
    """Extract, and look at the result."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("images", nargs="?", default=str(SAMPLES), help="folder of images")
    parser.add_argument("-o", "--out", default="ray_features", help="folder to write")
    parser.add_argument("--model", default="resnet18_cassle_simclr")
    parser.add_argument("--workers", default=1, type=int, help="that each hold the model")
    parser.add_argument("--gpus", default=0, type=float, help="of each worker")
    args = parser.parse_args()

    files = ray.data.read_binary_files(args.images, include_paths=True, file_extensions=IMAGES)
    table = files.flat_map(decode).map_batches(
        Extractor,
        fn_constructor_args=(args.model,),
        batch_size=64,
        concurrency=args.workers,
        num_gpus=args.gpus,
    )
    table.rename_columns({"pooled": "features"}).write_parquet(args.out, mode="overwrite")

    rows = ray.data.read_parquet(args.out).take_all()
    features = np.stack([row["features"] for row in rows])
    print(f"{args.out}: {features.shape[0]} images, {features.shape[1]} features each")
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    closest = features @ features.T - 2 * np.eye(len(features))
    for i in range(min(3, len(rows))):
        j = int(closest[i].argmax())
        print(f"{rows[i]['path']}\n  is most like {rows[j]['path']} ({closest[i, j]:.3f})")


if __name__ == "__main__":
    main()
