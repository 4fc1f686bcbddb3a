"""A SuperLink in this process: Flower's own HTTP grid on it pulls whatever nodes have uploaded."""

import time
from types import SimpleNamespace

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import message_pb2, runtime_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.superlink.grid import HttpGrid

from tests.support import hostile_node, malformed


def reply(content, is_uploaded=True, seconds=0.0, times=1):
    """Make what a node uploads: an envelope, a tree of objects, and the objects by their ids.

    It does not say what it replies to. Each object takes `seconds` to pull.
    """
    malformed.in_a_run()
    made = Message(content, dst_node_id=1, message_type="train")
    objects = {i: part.deflate() for i, part in get_all_nested_objects(made).items()}
    made.metadata.__dict__["_message_id"] = made.object_id
    envelope, tree = message_to_proto(remove_content_from_message(made)), get_object_tree(made)
    how = {"is_uploaded": is_uploaded, "seconds": seconds, "times": times}
    return SimpleNamespace(envelope=envelope, tree=tree, objects=objects, **how)


def named(name):
    """Return the content of a reply that is known by its name."""
    return RecordDict({"which": ConfigRecord({"name": name})})


def names(replies):
    return [r.content["which"]["name"] for r in replies if r.has_content() and "which" in r.content]


def bomb(times):
    """Return an array whose one chunk of a kilobyte is named that many times."""
    claims = ("float32", (4,), "numpy.ndarray", bytes(1024))
    return hostile_node.Forged(lambda body: hostile_node.bomb(body, times), *claims)


class SuperLink:
    """Answers the requests of an `HttpGrid`; `replies` are those of the nodes 0, 1, …"""

    def __init__(self, *replies):
        self.replies = replies
        self.waiting = {}
        self.objects = {i: (made, made.objects[i]) for made in replies for i in made.objects}
        self.pulled, self.encodings = [], []

    def grid(self):
        """Return Flower's grid, connected to this SuperLink."""
        grid = HttpGrid("superlink", insecure=True, token="token")
        grid.set_run(Run.create_empty(1))
        client = httpx.Client(transport=httpx.MockTransport(self.serve))
        grid._runtime_client._client = client
        return grid

    def serve(self, request):
        self.encodings.append(request.headers["accept-encoding"])
        method = request.url.path.rsplit("/", 1)[1].replace("-", "_")
        made = getattr(self, method)(request.content)
        if isinstance(made, httpx.Response):
            return made
        body = [made.SerializeToString()]
        return httpx.Response(200, content=iter(body))  # which is read later, as from a network

    def push_messages(self, content):
        request = runtime_pb2.PushAppMessagesRequest.FromString(content)
        nodes = {m.metadata.message_id: m.metadata.dst_node_id for m in request.messages_list}
        self.waiting |= {message_id: self.replies[node] for message_id, node in nodes.items()}
        return runtime_pb2.PushAppMessagesResponse(message_ids=list(nodes))

    def pull_messages(self, content):
        request = runtime_pb2.PullAppMessagesRequest.FromString(content)
        is_newer = hasattr(request, "reply_to_message_ids")  # since 1.43
        ids = request.reply_to_message_ids.vals if is_newer else request.message_ids
        made = runtime_pb2.PullAppMessagesResponse()
        for answer in (self.waiting[message_id] for message_id in ids):
            made.messages_list.extend([answer.envelope] * answer.times)
            made.message_object_trees.extend([answer.tree] * answer.times)
        return made

    def pull_object(self, content):
        object_id = message_pb2.PullObjectRequest.FromString(content).object_id
        answer, found = self.objects[object_id]
        self.pulled.append(object_id)
        time.sleep(answer.seconds)
        made = message_pb2.PullObjectResponse(object_found=True)
        if answer.is_uploaded:
            made.object_available, made.object_content = True, found
        return made

    def confirm_message_received(self, content):
        return message_pb2.ConfirmMessageReceivedResponse()
