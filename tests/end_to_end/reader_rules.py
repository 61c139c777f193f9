"""Asks docs/examples/transactions for its verdicts: a case a line in, an answer a line out."""

import json
import struct
import sys

import transactions

# What is not there at once does not come.
transactions.MISSING_AFTER_S = -1


class Message:
    def __init__(self, offset, epoch, commit, ordinal):
        self._offset = offset
        self._header = struct.pack(">QQIQ", epoch, commit, ordinal, 0)

    def offset(self):
        return self._offset

    def headers(self):
        return [("walferry", self._header)]


class Partition:
    place = ("t", 0)

    def __init__(self, records):
        self.messages = [Message(offset, *record) for offset, record in enumerate(records)]
        self.next = None

    def watermarks(self):
        return 0, len(self.messages)

    def seek(self, offset):
        self.next = offset

    def poll(self):
        if self.next >= len(self.messages):
            return None
        self.next += 1
        return self.messages[self.next - 1]


def judged(entries):
    log, verdicts = transactions.Log(), ""
    for offset, entry in entries:
        try:
            verdicts += "v" if log.is_valid(offset, entry) else "x"
        except transactions.Stop:
            return verdicts + "!"
    return verdicts


def taken(case, ask):
    try:
        found = ask(Partition(case["records"]), case["epoch"], case["bounds"], case["extent"])
    except transactions.Stop:
        found = None
    return None if found is None else [message.offset() for _, message in found]


for line in sys.stdin:
    case = json.loads(line)
    if "entries" in case:
        answer = judged(case["entries"])
    else:
        answer = [
            taken(case, lambda *of: transactions.take(*of, case["start"])),
            taken(case, transactions.locate),
        ]
    print(json.dumps(answer))
