"""The mailbox: never waits for a full pipe, and delivers in order all the same."""

from __future__ import annotations

import os
import select
import threading
from multiprocessing import Pipe

import pytest

from poolwarden.system import mailbox as mailbox_module
from poolwarden.system.mailbox import Mailbox
from tests.contract.waiting import DEADLINE, eventually, within
from tests.worker.processes import running

#: Bytes of a large message; with its length it fits into PIPE_BUF.
LARGE = 3_900


@pytest.fixture(params=["opened again", "shared"])
def pipe(request, monkeypatch):
    """Reader, writer and the mailbox on the writer, in both ways to write without waiting."""
    reader, writer = Pipe(duplex=False)
    with monkeypatch.context() as patch:
        if request.param == "shared":

            def refuse(path, *args):
                raise FileNotFoundError(path)

            patch.setattr(mailbox_module.os, "open", refuse)
        mailbox = Mailbox(writer)
    assert (mailbox._fd < 0) == (request.param == "shared")
    yield reader, writer, mailbox
    mailbox.close()
    reader.close()
    writer.close()


def receive(reader):
    assert reader.poll(DEADLINE), f"no message within {DEADLINE:g} s"
    return reader.recv_bytes()


def test_messages_arrive_in_order(pipe):
    reader, _, mailbox = pipe
    for number in range(20):
        mailbox.post(b"message %d" % number)
    assert [receive(reader) for _ in range(20)] == [b"message %d" % number for number in range(20)]


@pytest.mark.parametrize("size", [10, LARGE])
def test_posting_into_a_full_pipe_does_not_wait_and_everything_arrives_in_order(pipe, size):
    reader, _, mailbox = pipe
    count = 200_000 // (size + 4)
    messages = [b"%d" % number + b"." * size for number in range(count)]

    def post_all():
        for message in messages:
            mailbox.post(message)

    within(DEADLINE, post_all)
    assert mailbox._waiting
    # Nobody posts any more: the watchdog does the rest.
    assert [receive(reader) for _ in messages] == messages
    eventually(lambda: not mailbox._waiting, "nothing waiting")


def test_a_message_behind_a_full_pipe_does_not_overtake(pipe):
    reader, _, mailbox = pipe
    within(DEADLINE, fill, mailbox)
    mailbox.post(b"last")  # there might be room for so few bytes
    messages = []
    while not messages or messages[-1] != b"last":
        messages.append(receive(reader))
    assert set(messages[:-1]) == {b"." * LARGE}


def test_the_pipe_that_workers_share_goes_on_blocking(pipe):
    """A worker that found it without room would see an error it does not expect."""
    _, writer, mailbox = pipe
    mailbox.post(b"message")
    assert os.get_blocking(writer.fileno())


def test_messages_of_workers_come_in_between_whole(pipe):
    reader, writer, mailbox = pipe
    rounds = 300

    def work():
        for number in range(rounds):
            writer.send_bytes(b"w%d" % number + b"." * (LARGE if number % 2 else 5))

    with running(work):
        for number in range(rounds):
            mailbox.post(b"m%d" % number + b"." * (LARGE if number % 3 else 5))
        messages = [receive(reader).rstrip(b".") for _ in range(2 * rounds)]
    assert [m for m in messages if m.startswith(b"w")] == [b"w%d" % number for number in range(rounds)]
    assert [m for m in messages if m.startswith(b"m")] == [b"m%d" % number for number in range(rounds)]


def test_threads_may_post_at_the_same_time(pipe):
    reader, _, mailbox = pipe
    threads = [
        threading.Thread(target=lambda n=n: [mailbox.post(b"%d %d" % (n, turn)) for turn in range(100)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    messages = [receive(reader) for _ in range(400)]
    for thread in threads:
        thread.join(DEADLINE)
    for n in range(4):
        mine = [m for m in messages if m.startswith(b"%d " % n)]
        assert mine == [b"%d %d" % (n, turn) for turn in range(100)]


def test_without_a_reader_posting_is_no_error(pipe):
    reader, _, mailbox = pipe
    reader.close()
    for _ in range(3):
        mailbox.post(b"message")


def fill(mailbox):
    """Post until there is no room; not in the main thread, which leaves the writing to the watchdog."""
    while not mailbox._waiting:
        mailbox.post(b"." * LARGE)


def test_a_reader_that_goes_while_messages_wait_ends_the_waiting(pipe):
    reader, _, mailbox = pipe
    within(DEADLINE, fill, mailbox)
    reader.close()
    eventually(lambda: mailbox._closed, "the mailbox closed")


def test_closing_drops_what_waits_and_refuses_the_rest(pipe):
    reader, _, mailbox = pipe
    within(DEADLINE, fill, mailbox)
    mailbox.close()
    mailbox.close()
    mailbox.post(b"too late")
    while reader.poll(0):
        assert reader.recv_bytes() == b"." * LARGE
    # Nothing is under way either: the watchdog has forgotten it.
    poll = select.poll()
    poll.register(reader.fileno(), select.POLLIN)
    assert not poll.poll(3 * mailbox_module._RETRY * 1000)
