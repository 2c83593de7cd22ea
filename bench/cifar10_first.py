"""The first 1,017 images of each of CIFAR-10's batches: which they are, and the sha256 of their pixels.

They are handed on as Parquet files, test-*.parquet and train-*.parquet, in official order. The training
batches have 10,000 images each, so these are five ranges of the 50,000.
"""

from __future__ import annotations

from bench.schema.ranges import Ranges

FOLDER = "cifar10-first1017"  # beside the other data sets
THERE: dict[str, Ranges] = {
    "test": ((0, 1017),),
    "train": tuple((first, first + 1017) for first in range(0, 50_000, 10_000)),
}
# Of images and labels, as `bench.datasets.examples_sha256` takes it.
SHA256 = {
    "test": "6950523241608ba0f6b547538e874f7b70bd6ef1b8b3a56bef0c2059a5a38361",
    "train": "0d21cb9e3aa0b7e0fc04b1b8921575cc56f1adcf3d1be394b64f6028d20faa27",
}
