"""Searching by personal values in a process that has the keys: what finds them in a question, and who may ask."""

from __future__ import annotations

from dataclasses import replace

from heimdall_server.canonical.catalogue import personal_form
from heimdall_server.config import Config
from heimdall_server.planner.erased_values import ErasedValues
from heimdall_server.planner.personal_terms import PersonalTerms
from heimdall_server.ports.audit import AuditLog
from heimdall_server.ports.clock import Clock
from heimdall_server.ports.operations import PolicyLog
from heimdall_server.protect.policy import PrivacyRule
from heimdall_server.protect.value_terms import ValueTerms
from heimdall_server.services.query.logic.matching import MatchGuard, MatchLimiter, MatchLimits, PersonalSearch
from heimdall_server.wiring.keys import PrivacyKeys


async def make_personal_search(
    config: Config, keys: PrivacyKeys, audit: AuditLog, clock: Clock, policies: PolicyLog, erased: ErasedValues
) -> PersonalSearch:
    """What the query service, its watches and deletions do about personal values in questions.

    Args:
        config: Prefixes and limits.
        keys: The tokeniser, and the protector with the policy in force.
        audit: Where searches are written down.
        clock: For the limits.
        policies: What was in force before: older records were protected by it.
        erased: What was erased, and will be.

    Raises:
        StoreError, CorruptionError: The policies can't be read.
    """
    former = []
    async for version in policies.read():
        rules = tuple(PrivacyRule(one.action, one.data_class, one.source, one.field) for one in version.rules)
        former.append(replace(keys.protector.policy, version=version.version, rules=rules))
    values = ValueTerms(lambda: keys.protector.policy, former)
    terms = PersonalTerms(
        classes=values.classes,
        tokeniser=keys.keyring,
        policy=values,
        find_personal=values.find_personal,
        class_of_field=values.class_of_field,
        personal_form=personal_form,
        prefixes=config.privacy.ip_prefixes,
        find_in_name=values.find_in_name,
        erased=erased,
    )
    limits = MatchLimits(config.privacy_limits.matches_per_minute, config.privacy_limits.matches_burst)
    guard = MatchGuard(audit, MatchLimiter(limits, clock), clock)
    return PersonalSearch(terms, guard, lambda: keys.protector.policy_version)
