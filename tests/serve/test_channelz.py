"""gRPC's own view of the server: its calls and sockets."""

from __future__ import annotations

import grpc
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc

from secateur.client import Client
from secateur.serve.guard.access import scope_of
from secateur.serve.guard.callers import Scope
from secateur.serve.process import ServerProcess


def test_calls_and_sockets_are_shown(server: ServerProcess, client: Client) -> None:
    client.models.list()
    with grpc.insecure_channel(server.address) as channel:
        channelz = channelz_pb2_grpc.ChannelzStub(channel)
        (found,) = channelz.GetServers(channelz_pb2.GetServersRequest()).server
        assert found.data.calls_started > found.data.calls_succeeded > 0
        sockets = channelz.GetServerSockets(
            channelz_pb2.GetServerSocketsRequest(server_id=found.ref.server_id)
        )
        assert sockets.socket_ref


def test_only_administrators_see_them() -> None:
    assert scope_of("/grpc.channelz.v1.Channelz/GetServers") is Scope.ADMIN
