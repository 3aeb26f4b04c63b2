"""The smallest real runs: handwritten digits, and a backbone of six small blocks with random weights."""

from hydra import compose

from pvera.config import Run, to_runs

#: The model and the data. A test adds how long it trains.
DIGITS = ["task=extra/digits", "backbone=test_vit", "image_size=32", "source.test_limit=50"]
#: A run of one epoch, which takes about a second.
TINY = [*DIGITS, "trainer=smoke", "trainer.batch_size=200", "trainer.epochs=1"]


def tiny_run(*words: str) -> Run:
    """The run of `TINY` and more words. The test uses the fixture `hydra`."""
    return to_runs(compose("config", overrides=[*TINY, *words]))[0]
