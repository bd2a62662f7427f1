"""A tiny dataset with the structure of emoji64, of noise."""

import random
from pathlib import Path

from PIL import Image

from cassle_zoo.data.emoji64 import SKIN_TONES, VENDORS, Record, format_metadata


def make_drawing(seed: int) -> Image.Image:
    """Return 4x4 squares; tests of the study depend on which colours these are."""
    pixels = random.Random(seed).randbytes(4 * 4 * 3)
    return Image.frombytes("RGB", (4, 4), pixels).resize((64, 64), Image.Resampling.NEAREST)


def make_records() -> list[Record]:
    records = []
    for subcategory, bases, tones in [
        ("face", 16, ("none",)),
        ("person", 16, ("none", *SKIN_TONES, "mixed")),
        ("country-flag", 14, ("none",)),
        ("rare", 3, ("none",)),
    ]:
        for number in range(bases):
            base = f"{subcategory.upper()}-{number}"
            for tone in tones:
                code = base if tone == "none" else f"{base}-{tone.upper()}"
                for vendor in VENDORS[: 2 if subcategory == "country-flag" else 3]:
                    records.append(
                        Record(
                            file_name=f"{vendor}/{code.lower()}.png",
                            vendor=vendor,
                            unified=code,
                            base=base,
                            name=f"NAME, {number}",
                            category="Any",
                            subcategory=subcategory,
                            skin_tone=tone,
                            split="test" if number % 5 == 4 else "train",
                        )
                    )
    return records


def write_folder(root: Path) -> list[Record]:
    """Write images and metadata into an empty folder; return the records."""
    records = make_records()
    for vendor in VENDORS:
        (root / vendor).mkdir()
    for seed, record in enumerate(records):
        make_drawing(seed).save(root / record.file_name)
    (root / "metadata.csv").write_text(format_metadata(records))
    return records
