"""Writes `events.tfevents`: what TensorBoard's own writer makes of two steps. Needs tensorboard.

    python Tests/Fixtures/training/make_training.py
"""

import pathlib

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

FOLDER = pathlib.Path(__file__).parent
TIME = 1_700_000_000.25


def values(**scalars):
    return Summary(value=[Summary.Value(tag=f"training/{tag}", simple_value=value) for tag, value in scalars.items()])


with open(FOLDER / "events.tfevents", "wb") as file:
    writer = RecordWriter(file)
    for event in [
        Event(wall_time=TIME, file_version="brain.Event:2"),
        Event(wall_time=TIME, step=7, summary=values(itc=4.5, seconds=61)),
        Event(wall_time=TIME, step=300, summary=values(itc=-0.125)),
    ]:
        writer.write(event.SerializeToString())
