"""Encryption with certificates made on the spot: server's, clients', renewed, and broken ones."""

from __future__ import annotations

import logging
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from secateur.config.serve import ServeOptions, TlsOptions
from secateur.config.values import from_given
from secateur.errors import BadInput
from secateur.serve.guard.access import AccessControl
from secateur.serve.guard.callers import Scope, format_caller_entry, generate_token
from secateur.serve.guard.tls import server_credentials
from tests.serve.guard.certificates import Identity, install, issue
from tests.serve.guard.conftest import ADMIN_SERVICE, Calls, Running, failure


@pytest.fixture(scope="module")
def authority() -> Identity:
    return issue("authority")


def trusting(authority: Identity, client: Identity | None = None) -> grpc.ChannelCredentials:
    if client is None:
        return grpc.ssl_channel_credentials(authority.certificate_pem)
    return grpc.ssl_channel_credentials(authority.certificate_pem, client.key_pem, client.certificate_pem)


async def once(address: str, credentials: grpc.ChannelCredentials | None) -> str:
    """Call over a connection of its own; return the answer, or the name of the status."""
    # Without this, gRPC would hand out a connection that it still has.
    alone = [("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=alone)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=alone)
    async with channel:
        try:
            return (await Calls(channel, None, address).say(timeout=5)).value  # type: ignore[arg-type]
        except grpc.aio.AioRpcError as error:
            return error.code().name


async def test_encrypted(running: Running, authority: Identity, tmp_path: Path) -> None:
    tls = install(issue("localhost", authority), tmp_path)
    async with running(tls=tls, credentials=trusting(authority)) as calls:
        assert (await calls.say()).value == "hello"
        assert calls.handlers.seen[-1].identities == frozenset()
        assert await once(calls.address, None) == "UNAVAILABLE"
        assert await once(calls.address, trusting(issue("another"))) == "UNAVAILABLE"


async def test_clients_show_certificates(running: Running, authority: Identity, tmp_path: Path) -> None:
    clients = issue("clients")
    tls = install(issue("localhost", authority), tmp_path, clients)
    mine = trusting(authority, issue("ops.example.org", clients))
    async with running(tls=tls, credentials=mine, checks=[AccessControl()]) as calls:
        assert (await calls.say(service=ADMIN_SERVICE)).value == "hello"
        assert calls.handlers.seen[-1].caller.name == "ops.example.org"
        assert await once(calls.address, trusting(authority)) == "UNAVAILABLE"
        stranger = issue("ops.example.org", issue("clients"))
        assert await once(calls.address, trusting(authority, stranger)) == "UNAVAILABLE"


async def test_certificates_have_scopes(running: Running, authority: Identity, tmp_path: Path) -> None:
    tls = install(issue("localhost", authority), tmp_path, authority)
    file, token = tmp_path / "callers.toml", generate_token()
    file.write_text(
        '[[caller]]\nname = "reader"\nscopes = ["infer"]\ncertificate = "reader.example.org"\n'
        + format_caller_entry("operator", [Scope.ADMIN], token)
    )
    reader = trusting(authority, issue("reader.example.org", authority))
    async with running(tls=tls, credentials=reader, checks=[AccessControl(file)]) as calls:
        assert (await calls.say()).value == "hello"
        assert calls.handlers.seen[-1].caller.name == "reader"
        assert (await failure(calls.say(service=ADMIN_SERVICE))).reason == "SCOPE_MISSING"
        # A token counts for more than the certificate of the machine it comes from.
        metadata = (("authorization", f"Bearer {token}"),)
        assert (await calls.say(service=ADMIN_SERVICE, metadata=metadata)).value == "hello"
        other = trusting(authority, issue("other.example.org", authority))
        assert await once(calls.address, other) == "UNAUTHENTICATED"


async def test_renewed_certificates_are_taken_over(
    running: Running, authority: Identity, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tls = install(issue("localhost", authority), tmp_path)
    other = issue("authority 2")
    async with running(tls=tls, credentials=trusting(authority)) as calls:
        assert (await calls.say()).value == "hello"
        assert await once(calls.address, trusting(other)) == "UNAVAILABLE"
        renewed = issue("localhost", other)
        tls.certificate.write_bytes(renewed.certificate_pem)
        # Half of the pair is there: the old pair stays.
        assert await once(calls.address, trusting(authority)) == "hello"
        tls.key.write_bytes(renewed.key_pem)
        assert await once(calls.address, trusting(other)) == "hello"
        assert await once(calls.address, trusting(authority)) == "UNAVAILABLE"
        assert (await calls.say()).value == "hello"  # connections that are open stay so
    ours = [record for record in caplog.records if record.name == "secateur.serve.guard.tls"]
    assert [record.levelname for record in ours] == ["ERROR", "INFO"]


def test_files_that_are_none(tmp_path: Path, authority: Identity) -> None:
    tls = install(issue("localhost", authority), tmp_path, authority)
    assert server_credentials(tls)
    tls.key.write_bytes(issue("x").key_pem)
    with pytest.raises(BadInput, match=r"tls_cert: got .*cert.pem: not a PEM certificate with its key in"):
        server_credentials(tls)
    tls = install(issue("localhost", authority), tmp_path, authority)
    assert tls.client_ca is not None
    tls.client_ca.write_text("nonsense")
    with pytest.raises(BadInput, match=r"client_ca: got .*ca.pem: not PEM certificates"):
        server_credentials(tls)
    locked = serialization.BestAvailableEncryption(b"password")
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked
    tls = install(identity := issue("localhost", authority), tmp_path)
    tls.key.write_bytes(identity.key.private_bytes(*form))
    with pytest.raises(BadInput, match="locked with a password"):
        server_credentials(tls)
    with pytest.raises(BadInput, match=r"tls_key: got .*: no such file"):
        TlsOptions(tls.certificate, tmp_path / "none.pem")
    with pytest.raises(BadInput, match="tls_key: got nothing: `tls_cert` needs it"):
        from_given(ServeOptions, {"models": [f"a={tmp_path}"], "tls_cert": tls.certificate})
    with pytest.raises(BadInput, match="tls_cert: got nothing"):
        from_given(ServeOptions, {"models": [f"a={tmp_path}"], "client_ca": tls.certificate})


def test_what_leaves_the_machine_is_encrypted(tmp_path: Path, authority: Identity, tiny_llama: Path) -> None:
    tls = install(issue("localhost", authority), tmp_path)
    tokens = tmp_path / "callers.toml"
    tokens.write_text("")
    models = {"a": tiny_llama}
    for open_to_others in ("0.0.0.0:0", "[::]:0", "example.org:1"):
        with pytest.raises(BadInput, match=r"listen: .* without encryption: add `tls_cert`"):
            ServeOptions(models, listen=open_to_others)
        ServeOptions(models, listen=open_to_others, insecure=True)
        ServeOptions(models, listen=open_to_others, tls=tls, tokens=tokens)
        # Consent to plain text does not extend to secrets in it.
        with pytest.raises(BadInput, match=r"tokens: .* would be readable on the way"):
            ServeOptions(models, listen=open_to_others, insecure=True, tokens=tokens)
    for local in ("127.0.0.1:0", "unix:/run/a.sock"):
        assert ServeOptions(models, listen=local, tokens=tokens).lame_duck == 0
