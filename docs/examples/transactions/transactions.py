"""Whole transactions of a walferry pipeline, in commit order over all tables; one JSON object a line.

    python3 transactions.py BROKERS PIPELINE            up to the commit log's end now
    python3 transactions.py BROKERS PIPELINE --follow   and on

Begins with the oldest transaction from which on Kafka still has all. The rules are those of
docs/event-format.md, "How to read transactions"; any language with a Kafka client can do the same.
"""

import argparse
import json
import struct
import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

COMMITS_PARTITION = 0
# How long records that the log counts may stay away before the partition's end is looked at.
MISSING_AFTER_S = 30
ASK_TIMEOUT_S = 20
POLL_S = 0.2


class Stop(Exception):
    """Going on would give out less than the leader committed."""


def lsn_of(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def lsn_text(lsn):
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


class Log:
    """The commit log judged entry by entry: which entries count. Nothing else decides that."""

    def __init__(self):
        self.fresh = True  # no valid entry yet: the first one counts
        self.epoch = None
        self.to = None
        self.last_valid = None

    def is_valid(self, offset, entry):
        """Whether the entry counts. A valid entry moves the log on, any other changes nothing."""
        kind = entry["kind"]
        if kind == "epoch":
            # Its writer goes on where the log ended when it looked; did somebody write on meanwhile?
            if self.last_valid is not None and self.last_valid >= entry["after"]:
                return False
            self.epoch = offset
        else:
            if self.fresh:
                epoch = entry["epoch"]
            else:
                epoch = self.epoch
            if entry["epoch"] != epoch or not self._goes_on(offset, kind, entry):
                return False
            self.epoch = epoch
        self.fresh = False
        self.last_valid = offset
        return True

    def _goes_on(self, offset, kind, entry):
        if kind == "batch":
            begin, end = lsn_of(entry["from"]), lsn_of(entry["to"])
            if self.to is not None and end <= self.to:
                return False  # a repeat
            if self.to is not None and begin != self.to:
                raise Stop(f"entry {offset}: the log ends at {lsn_text(self.to)}, and this begins at {entry['from']}")
            self.to = end
        elif kind == "copy_begin":
            at = entry["at"] and lsn_of(entry["at"])
            if self.to is not None and at != self.to:
                return False  # a repeat
            self.to = self.to or at
        elif kind != "copy_end":
            raise Stop(f"entry {offset} is of a kind that is not known here: {kind}")
        return True


def position(message):
    """Epoch and (commit LSN, ordinal) of a record."""
    header = dict(message.headers() or []).get("walferry")
    if header is None or len(header) != 28:
        raise Stop(f"{message.topic()} {message.partition()} {message.offset()} is no record of walferry's")
    epoch, commit, ordinal, _version = struct.unpack(">QQIQ", header)
    return epoch, (commit, ordinal)


def consumer(brokers):
    return Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "transactions",  # asked for by the client; nothing is committed to it
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
            "fetch.wait.max.ms": 50,
        }
    )


class Partition:
    """One partition, read from an offset on."""

    def __init__(self, brokers, topic, number):
        self.consumer = consumer(brokers)
        self.place = (topic, number)
        self.next = None

    def watermarks(self):
        return self.consumer.get_watermark_offsets(TopicPartition(*self.place), ASK_TIMEOUT_S)

    def seek(self, offset):
        if offset != self.next:
            self.consumer.assign([TopicPartition(*self.place, offset)])
            self.next = offset

    def poll(self):
        """The next record, or None when none comes for a moment."""
        message = self.consumer.poll(POLL_S)
        if message is None:
            return None
        if message.error():
            if message.error().code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                raise Stop(f"{self.place} no longer has offset {self.next}")
            if message.error().retriable() or message.error().code() == KafkaError._TRANSPORT:
                return None
            raise KafkaException(message.error())
        if message.offset() != self.next:
            return None  # fetched before a seek: these topics have every offset
        self.next += 1
        return message


def take(partition, epoch, bounds, extent, start):
    """The records of a batch in a partition, read from `start` on; None when fewer than `count` are there."""
    partition.seek(start)
    taken, last, heard = [], None, time.monotonic()
    while len(taken) < extent["count"] and partition.next <= extent["last"]:
        message = partition.poll()
        if message is None:
            if time.monotonic() - heard > MISSING_AFTER_S and partition.watermarks()[1] <= extent["last"]:
                raise Stop(f"{partition.place} ends before offset {extent['last']}")
            continue
        heard = time.monotonic()
        if message.offset() > extent["last"]:
            break
        of, at = position(message)
        # Others were left by sources that are not current, or are a producer's repeats.
        if of == epoch and bounds[0] <= at[0] < bounds[1] and (last is None or at > last):
            taken.append((at, message))
            last = at
    return taken if len(taken) == extent["count"] else None


def locate(partition, epoch, bounds, extent):
    """As `take`, where no cursor says yet where to begin: looks back from `last`, further and further."""
    low, _high = partition.watermarks()
    window = extent["count"]
    while True:
        start = max(low, extent["last"] + 1 - window)
        taken = take(partition, epoch, bounds, extent, start)
        if taken is not None or start == low:
            return taken
        window = max(64, 4 * window)


def whole(taken):
    """Puts values together that travelled in pieces: consecutive records of one partition."""
    pieces = []
    for at, message in taken:
        part = dict(message.headers()).get("walferry.part")
        index, count = struct.unpack(">II", part) if part else (0, 1)
        if index != len(pieces):
            raise Stop(f"{message.topic()} {message.partition()} {message.offset()}: pieces are missing")
        pieces.append((at, message.value()))
        if index + 1 == count:
            value = pieces[0][1] if count == 1 else b"".join(piece for _, piece in pieces)
            yield pieces[0][0], message, value
            pieces = []


def change(message, value):
    """A record's value as it is printed."""
    event = json.loads(value)
    shown = {"table": f"{event['source']['schema']}.{event['source']['table']}", "op": event["op"]}
    if message.key() is not None:
        shown["key"] = json.loads(message.key())
    for image in ("before", "after"):
        if event[image] is not None:
            # What is absent did not change and was not sent: no value of this row.
            absent = event.get("absent", []) if image == "after" else []
            shown[image] = {name: cell for name, cell in event[image].items() if name not in absent}
    return shown


def transactions(records):
    """Records in order of their positions, as transactions."""
    current, commit, moved = None, None, None
    for (lsn, _ordinal), message, value in sorted(records, key=lambda record: record[0]):
        if lsn != commit:
            if current:
                yield current
            current, commit = None, lsn
        if value is None:
            continue  # a tombstone says nothing that the delete before it has not said
        if current is None:
            event = json.loads(value)
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(event["ts_ms"] // 1000))
            current = {
                "lsn": lsn_text(lsn),
                "xid": event["source"]["txId"],
                "time": f"{at}.{event['ts_ms'] % 1000:03}Z",
                "changes": [],
            }
        headers, shown = dict(message.headers()), change(message, value)
        if "__debezium.newkey" in headers:
            moved = shown  # the first half of a key change
            continue
        if "__debezium.oldkey" in headers:
            shown.update(op="u", old_key=json.loads(headers["__debezium.oldkey"]), before=moved["before"])
        current["changes"].append(shown)
    if current:
        yield current


class Reader:
    def __init__(self, brokers, pipeline):
        self.brokers, self.log = brokers, Log()
        self.commits = Partition(brokers, f"{pipeline}.commits", COMMITS_PARTITION)
        self.partitions = {}

    def entries(self, follow):
        """Valid batches from the log's oldest entry on."""
        low, high = self.commits.watermarks()
        self.commits.seek(low)
        while follow or self.commits.next < high:
            message = self.commits.poll()
            if message is None:
                continue
            entry = json.loads(message.value())
            if self.log.is_valid(message.offset(), entry) and entry["kind"] == "batch":
                yield message.offset(), entry

    def partition(self, topic, number):
        place = (topic, number)
        if place not in self.partitions:
            self.partitions[place] = Partition(self.brokers, topic, number)
        return self.partitions[place]

    def whole_behind(self):
        """The offset of the last batch that surely lacks records: retention has taken them."""
        last, lows = -1, {}
        for offset, entry in self.entries(follow=False):
            for topic, extents in entry.get("offsets", {}).items():
                for number, extent in extents.items():
                    place = (topic, int(number))
                    if place not in lows:
                        lows[place] = self.partition(*place).watermarks()[0]
                    if extent["count"] > 0 and lows[place] > extent["last"] - extent["count"] + 1:
                        last = offset
        self.log = Log()
        return last

    def records(self, entry):
        """All records of a valid batch."""
        bounds = lsn_of(entry["from"]), lsn_of(entry["to"])
        for topic, extents in entry.get("offsets", {}).items():
            for number, extent in extents.items():
                partition = self.partition(topic, int(number))
                if partition.next is None:
                    taken = locate(partition, entry["epoch"], bounds, extent)
                else:
                    taken = take(partition, entry["epoch"], bounds, extent, partition.next)
                if taken is None:
                    raise Stop(f"{partition.place}: not all {extent['count']} records up to {extent['last']} are there")
                yield from whole(taken)

    def run(self, follow):
        behind = self.whole_behind()
        for offset, entry in self.entries(follow):
            if offset > behind:
                for transaction in transactions(self.records(entry)):
                    print(json.dumps(transaction, ensure_ascii=False))
                sys.stdout.flush()


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    arguments.add_argument("brokers")
    arguments.add_argument("pipeline")
    arguments.add_argument("--follow", action="store_true", help="do not stop at the log's end")
    asked = arguments.parse_args()
    try:
        Reader(asked.brokers, asked.pipeline).run(asked.follow)
    except Stop as stop:
        sys.exit(f"stopped: {stop}")


if __name__ == "__main__":
    main()
