"""A registered node that is no SuperNode: it speaks Flower's Fleet API itself, to do harm.

``python hostile_node.py SUPERLINK CA KEY KIND``: it answers every request with a reply of this
kind, which no ClientApp could send.
"""

import json
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable import inflatable_object as inflatable
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.task_identity import TaskIdentity


class Forged(Array):
    """An array whose claims about itself are changed once they are written."""

    def __init__(self, change, *array):
        super().__init__(*array)
        self.change = change

    def deflate(self):
        head, body = super().deflate().split(b"\0", 1)
        _, children, _ = head.split(b" ")
        body = self.change(body)
        return b"Array %s %d\0" % (children, len(body)) + body


def bomb(body, times=1 << 17):
    """Its one chunk, named so often that less than a megabyte fills fifty gigabytes."""
    return json.dumps(json.loads(body) | {"arraychunk_ids": [0] * times}).encode()


def answer(message, kind, send, push_object):
    """Push a reply, or a part of one."""
    values = np.arange(100_000 if kind == "bomb" else 20, dtype="f4")  # no two chunks alike
    changes = {"garbage": lambda body: b"?" * len(body), "bomb": bomb}
    arrays = ArrayRecord()
    arrays.update({"0": Forged(changes.get(kind, bytes), values)})
    metrics = MetricRecord({"num-examples": 10, "loss": 0.5})
    reply = Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
    claims, honest = reply.metadata.__dict__, dict(reply.metadata.__dict__)
    if kind == "impostor":  # inside, where Flower reads it again; the envelope is as it should be
        claims.update(_src_node_id=1, _reply_to_message_id="0" * 64)
    tree = inflatable.get_object_tree(reply)
    contents = {i: part.deflate() for i, part in inflatable.get_all_nested_objects(reply).items()}
    claims.update(honest | {"_message_id": tree.object_id})
    if kind == "childless":
        tree = ObjectTree(object_id=tree.object_id)
    wanted, session = send(reply, tree, 0.1)
    print("announced", flush=True)
    for object_id in wanted if kind != "promise" else []:
        push_object(message.metadata.run_id, session, object_id, contents[object_id])


def main(superlink, ca, key, kind):
    # not in Flower 1.38, with which tests import the rest of this file
    from flwr.supernode.fleet_http_connection import http_request_response

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # goes offline first
    private = load_ssh_private_key(Path(key).read_bytes(), None)
    keys = private, private.public_key()
    with http_request_response(superlink, False, Path(ca).read_bytes(), keys) as connection:
        node_id, receive, send, _, _, pull_object, push_object, confirm = connection
        TaskIdentity.task_id, TaskIdentity.node_id = 1, node_id
        while True:
            if received := receive():
                message, tree = received
                TaskIdentity.run_id = run_id = message.metadata.run_id
                if kind != "hasty":  # waits as a SuperNode does: the server may be uploading still
                    parts = [part.object_id for part in inflatable.iterate_object_tree(tree)]
                    pull_objects(parts, partial(pull_object, run_id))
                confirm(run_id, message.metadata.message_id)
                answer(message, kind, send, push_object)
            time.sleep(0.2)


if __name__ == "__main__":
    main(*sys.argv[1:])
