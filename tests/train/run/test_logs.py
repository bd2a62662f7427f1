from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cassle_zoo.train.run.logs import LOGGERS


def test_numbers_are_written_at_once(tmp_path: Path) -> None:
    loggers = [LOGGERS[name](tmp_path, 0) for name in ("csv", "tensorboard")]
    for logger in loggers:
        logger.log(1, {"loss": 2.0})
    assert (tmp_path / "metrics.csv").read_text().splitlines()[1:] == ["1,loss,2.0"]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0)]
    for logger in loggers:
        logger.close()
