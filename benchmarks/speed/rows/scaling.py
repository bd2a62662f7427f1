"""Growth of the speed of training with the batch size and with the number of processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.speed.timing import Check, Row, medians, take_turns
from benchmarks.speed.workloads import BATCH, config, random_batch, training_step
from cassle_zoo.common.workers import usable_cores
from cassle_zoo.train.config import OptimConfig
from cassle_zoo.train.distributed import process_group
from cassle_zoo.train.trainer import Trainer

BATCHES = (16, 32, 64, 128)
STEPS = 3


def measure(rounds: int) -> Row:
    """Measure steps on random crops: batch sizes in this process, then one and two processes."""
    seconds = take_turns({f"batch {size}": _turn(size) for size in BATCHES}, rounds)
    middle = medians(seconds).items()
    amounts = {
        name: STEPS * size / median for size, (name, median) in zip(BATCHES, middle, strict=True)
    }
    cores = usable_cores()
    for count in (1, 2):
        name = f"{count} process{'es' * (count > 1)}, batch {BATCH}"
        seconds[name] = [in_processes(count, max(1, cores // count)) for _ in range(2)]
        amounts[name] = STEPS * BATCH / min(seconds[name])
    one, two = (amounts[name] for name in list(amounts)[-2:])
    return Row(
        title="SimCLR step, resnet18, 96 px, bf16 where native: growth",
        amounts=amounts,
        unit="img/s",
        checks=[Check("two processes with half the cores each / one", two / one)],
        seconds=seconds,
    )


def _turn(size: int) -> Callable[[], None]:
    # The learning rate is 0, so that noise does not make the loss infinite.
    run = config(optim=OptimConfig(batch_size=size, epochs=1000, base_lr=0))
    step = training_step(run, random_batch(size))

    def turn() -> None:
        for _ in range(STEPS):
            step()

    return turn


def in_processes(count: int, threads: int) -> float:
    """Return the seconds of some steps that `count` processes do together."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), "-m", "benchmarks.speed.rows.scaling"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(output.stdout.splitlines()[-1]))


def one_of_several() -> None:
    """Train in one of the processes; the first prints the seconds."""
    with process_group.init(None, 600.0) as device:
        trainer = Trainer(config(), per_epoch=100, device=device)
        batch = random_batch(BATCH // process_group.world_size())
        trainer.train_step(batch, 10**6)
        start = time.perf_counter()
        for _ in range(STEPS):
            trainer.train_step(batch, 10**6)
        if process_group.rank() == 0:
            print(json.dumps(time.perf_counter() - start))


if __name__ == "__main__":
    one_of_several()
