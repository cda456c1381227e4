"""Identities, roles, permissions."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2 as _health  # noqa: F401 - links the service in
from grpc_reflection.v1alpha import reflection_pb2 as _reflection  # noqa: F401 - links the service in
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as _logs  # noqa: F401 - links the service in

from heimdall.admin.v1 import admin_service_pb2 as _admin  # noqa: F401 - links the service in
from heimdall.ingest.v1 import ingest_service_pb2 as _ingest  # noqa: F401 - links the service in
from heimdall.query.v1 import query_service_pb2 as _query  # noqa: F401 - links the service in
from heimdall.types.v1.method_policy_pb2 import MethodPolicy
from heimdall_server.domain.errors import ConfigurationError, InvalidArgumentError, PermissionDeniedError
from heimdall_server.domain.identity import Principal, SpiffeId, permission_matches
from heimdall_server.rpc.foreign import ANY_AUTHENTICATED, HEALTH, OTLP_LOGS, REFLECTION_V1ALPHA
from heimdall_server.rpc.permissions import (
    AccessPolicy,
    Authorizer,
    assert_all_methods_have_policy,
    method_policies,
)

OURS = ("heimdall.admin.v1.AdminService", "heimdall.ingest.v1.IngestService", "heimdall.query.v1.QueryService")


def principal(uri: str) -> Principal:
    return Principal.of(SpiffeId.parse(uri), fingerprint="")


@settings(max_examples=30)
@given(
    trust_domain=st.from_regex(r"[a-z0-9._-]{1,40}", fullmatch=True),
    kind=st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True),
    name=st.from_regex(r"[A-Za-z0-9_-]{1,20}(/[A-Za-z0-9_-]{1,20}){0,3}", fullmatch=True),
)
def test_names_read_back_what_they_say(trust_domain: str, kind: str, name: str) -> None:
    identity = SpiffeId(trust_domain, kind, name)
    assert SpiffeId.parse(str(identity)) == identity


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://a/b/c",
        "spiffe://",
        "spiffe://a",
        "spiffe://a/",
        "spiffe://a/b",
        "spiffe://a/b/",
        "spiffe://a//c",
        "spiffe://a/b/../c",
        "spiffe://a/./c",
        "spiffe://A/b/c",
        "spiffe://a:1/b/c",
        "spiffe://a/b/c?d",
        "spiffe://a/b/ü",
        "spiffe://a/b/" + "c/" * 1100 + "d",
    ],
)
def test_what_is_no_name_is_refused(uri: str) -> None:
    with pytest.raises(InvalidArgumentError):
        SpiffeId.parse(uri)


@pytest.mark.parametrize(
    ("pattern", "permission", "matches"),
    [
        ("*", "query.search", True),
        ("query.*", "query.search", True),
        ("query.*", "queryx.search", False),
        ("query.*", "query", False),
        ("ingest.*", "ingest.dead_letters.read", True),
        ("ingest.dead_letters.*", "ingest.append", False),
        ("query.search", "query.search", True),
        ("query.search", "query.search2", False),
    ],
)
def test_wildcards_cover_whole_words(pattern: str, permission: str, *, matches: bool) -> None:
    assert permission_matches(pattern, permission) is matches


def test_roles_of_all_matching_grants_count() -> None:
    policy = AccessPolicy(
        {
            "spiffe://td/client/*": ("reader",),
            "spiffe://td/client/ship*": ("writer",),
            "spiffe://td/ns/**": ("operator",),
        }
    )
    assert policy.roles_of("spiffe://td/client/bo") == {"reader"}
    assert policy.roles_of("spiffe://td/client/shipper") == {"reader", "writer"}
    assert policy.roles_of("spiffe://td/client/ship/per") == set()
    assert policy.roles_of("spiffe://td/ns/a/sa/b") == {"operator"}
    assert policy.roles_of("spiffe://other/client/bo") == set()


def test_configured_roles_replace_default_ones() -> None:
    policy = AccessPolicy({"spiffe://td/client/*": ("reader",)}, {"reader": ("query.explain",)})
    bo = Authorizer(policy).with_roles(principal("spiffe://td/client/bo"))
    assert bo.may("query.explain")
    assert not bo.may("query.search")


def test_problems_of_the_table_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        AccessPolicy(
            {"spiffe://*/client/admin": ("admin",), "bo": ("nobody",)},
            {"odd": ("Query.Search", "query.**", "")},
        )
    assert len(caught.value.problems) == 6


def test_default_policy_trusts_its_own_domain_only() -> None:
    authorizer = Authorizer(AccessPolicy.default("td"))
    admin = authorizer.with_roles(principal("spiffe://td/client/admin"))
    client = authorizer.with_roles(principal("spiffe://td/client/bo"))
    stranger = authorizer.with_roles(principal("spiffe://peer/client/admin"))
    assert admin.may("admin.config.read")
    assert client.may("ingest.append")
    assert client.may("query.watch")
    assert not client.may("admin.status")
    assert not client.may("ingest.dead_letters.read")
    assert not stranger.roles
    authorizer.check(stranger, MethodPolicy(permission=ANY_AUTHENTICATED))
    with pytest.raises(PermissionDeniedError):
        authorizer.check(stranger, MethodPolicy(permission="query.search"))


def test_who_may_delete_records_may_delete_dead_letters_and_not_decode_them() -> None:
    grants = {"spiffe://td/client/officer": ("privacy_officer",)}
    officer = Authorizer(AccessPolicy(grants)).with_roles(principal("spiffe://td/client/officer"))
    assert officer.may("privacy.delete")
    assert officer.may("ingest.dead_letters.read")
    assert officer.may("ingest.dead_letters.delete")
    assert not officer.may("ingest.dead_letters.retry")
    assert not officer.may("ingest.append")


def test_everyone_is_authenticated_but_no_role_grants_that() -> None:
    admin = Authorizer(AccessPolicy.default("td")).with_roles(principal("spiffe://td/client/admin"))
    assert "*" in admin.permissions


def test_every_method_of_ours_and_foreign_has_a_policy() -> None:
    policies = method_policies((*OURS, OTLP_LOGS, HEALTH, REFLECTION_V1ALPHA))
    assert policies["heimdall.query.v1.QueryService/Search"].permission == "query.search"
    assert policies["heimdall.admin.v1.AdminService/GetConfig"].audited
    assert policies[f"{OTLP_LOGS}/Export"].permission == "ingest.append"
    assert policies[f"{HEALTH}/Watch"].permission == ANY_AUTHENTICATED


def test_permission_of_every_method_is_within_a_default_role() -> None:
    roles = AccessPolicy().all_roles()
    granted = [pattern for role, patterns in roles.items() if role != "admin" for pattern in patterns]
    for method, policy in method_policies(OURS).items():
        assert any(permission_matches(pattern, policy.permission) for pattern in granted), method


def test_method_without_a_policy_and_unknown_service_are_refused() -> None:
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName("heimdall.test.v1.Open")
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto(name="heimdall/test/v1/open.proto", package="heimdall.test.v1")
        file.message_type.add(name="Empty")
        method = file.service.add(name="Open").method
        method.add(name="Do", input_type=".heimdall.test.v1.Empty", output_type=".heimdall.test.v1.Empty")
        pool.AddSerializedFile(file.SerializeToString())
    with pytest.raises(ConfigurationError) as caught:
        assert_all_methods_have_policy(("heimdall.test.v1.Open", "heimdall.nope.v1.Nope"))
    assert "heimdall.test.v1.Open/Do" in caught.value.problems[0]
    assert "no such service" in caught.value.problems[1]
