"""Asks a server for planted values in every way that people ask, rightly and wrongly, and keeps what it answers.

Values that are asked for stand in no record: whoever finds one anywhere knows that the question was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from heimdall_client.errors import HeimdallError
from heimdall_client.sync_client import Client
from tests.support.frames_out import OWN_WORDS, QueryPort, is_refusal
from tests.support.planted import Planted

KINDS: Final = ("email", "card", "iban", "phone", "ssn", "crypto_wallet/ethereum", "secret/github", "jwt")
TEXTS: Final = (
    '{field}:"{bare}"',
    '"{bare}"',
    'body:"seen {bare} today"',
    '"{bare}" OR service:shop | stats count() by service',
    "{bare}",
    "{field}:{bare}",
    "NOT {field}:{bare}",
    '{field}:>="{bare}"',
    "{field}:{bare}*",
    "/{bare}.*/",
    '{field}:"{bare}',
    '({field}:"{bare}"',
    '"{bare}" | nosuch',
    '"{bare}" | stats nosuch({bare}) by x',
    '| "{bare}"',
    "severity:{bare}",
    "time:>{bare}",
)
"""The last ones aren't questions."""
EVERY_KIND: Final = 4
"""So many of them are asked with every kind of value."""
POLICY: Final = (*({"action": "mask", "class": name} for name in ("cookie", "jwt", "secret")), {"action": "tokenise"})
"""Keeps nothing in plain."""
STATEMENTS: Final = (
    "SELECT * FROM logs WHERE {field} = '{bare}'",
    'SELECT count(*) FROM "{bare}"',
    "SELECT '{bare}' FROM",
    'DROP TABLE "{bare}"',
)


@dataclass
class Questions:
    """What is asked of a server."""

    client: Client
    port: QueryPort
    planted: Planted
    heard: list[tuple[str, list[bytes]]] = field(default_factory=list)

    def ask(self) -> None:
        """Searches, explanations, watches and what concerns personal data, each with values of its own."""
        self._search()
        self._watch()
        self._handle()

    def _search(self) -> None:
        for number, text in enumerate((*TEXTS, *STATEMENTS)):
            for kind in (
                KINDS if number < EVERY_KIND else (KINDS[number % len(KINDS)], KINDS[(number + 3) % len(KINDS)])
            ):
                value = self.planted.take(kind, f"query: {text}")
                asked = text.format(field=value.field, bare=value.bare)
                self._hear(text, self.port.search(asked, sql=text in STATEMENTS))
            if text in TEXTS:
                value = self.planted.take(KINDS[number % len(KINDS)], f"explain: {text}")
                self._hear(text, self.port.explain(text.format(field=value.field, bare=value.bare)))
        for kind in KINDS:
            value = self.planted.take(kind, "query: values of a field")
            self._hear("values of a field", self.port.field_values(value.bare))

    def _watch(self) -> None:
        for kind in KINDS[:3]:
            texts = []
            for text in (TEXTS[0], TEXTS[1], TEXTS[3], TEXTS[10], TEXTS[12]):
                value = self.planted.take(kind, f"watch: {text}")
                texts.append(text.format(field=value.field, bare=value.bare))
            watch = self.port.watch(*texts)
            watch.wait_for(len(texts))
            self._hear("a watch", watch.close())

    def _hear(self, what: str, answer: list[bytes]) -> None:
        """Keep an answer, its refusals apart: those say nothing of what was asked, however it was put."""
        refused = [message for message in answer if is_refusal(message)]
        self.heard.append((f"{OWN_WORDS} {what}", [message for message in answer if message not in refused]))
        self.heard.append((f"a refusal of {what}", refused))

    def _handle(self) -> None:
        for kind in KINDS:
            for place, attempt in self._attempts(kind).items():
                try:
                    self.heard.append((f"{OWN_WORDS} {place}", [repr(attempt()).encode()]))
                except (HeimdallError, ValueError) as error:
                    self.heard.append((f"a refusal of {place}", [(repr(error) + str(error)).encode()]))

    def _attempts(self, kind: str) -> Mapping[str, Callable[[], object]]:
        """What the privacy service and those beside it are asked, with values wherever texts go."""
        client = self.client
        subject, reason, token, query, sample, name, glob, owner = (
            self.planted.take(kind, f"privacy: {place}")
            for place in ("subject", "reason", "token", "query", "sample", "policy", "glob", "operation")
        )
        who = [(subject.data_class, subject.bare)]
        why = reason.text
        rule = {"action": name.bare, "class": name.bare, "field": name.bare}
        return {
            "reveal": lambda: client.reveal([token.bare], reason=why),
            "erase, dry run": lambda: client.erase(who, reason=why, dry_run=True),
            "erase": lambda: client.erase(who, reason=why),
            "export": lambda: list(client.export_subject(who, reason=why)),
            "delete": lambda: client.delete_records(f'body:"{query.bare}"', reason=why),
            "delete wrongly": lambda: client.delete_records(f'body:"{query.bare}', reason=why),
            "try a policy": lambda: client.test_privacy_policy(
                f"{sample.text}\n".encode(), [{"action": "tokenise"}], read_as="text"
            ),
            "set a policy": lambda: client.set_privacy_policy([rule], reason=why),
            "set a policy for a source": lambda: client.set_privacy_policy(
                [{"action": "mask", "source": f"*{glob.bare}*"}, *POLICY], reason=why
            ),
            "set a policy for a field": lambda: client.set_privacy_policy(
                [{"action": "mask", "field": f"attributes.{glob.bare}"}, *POLICY], reason=why
            ),
            "set a policy rightly": lambda: client.set_privacy_policy(POLICY, reason=why),
            "policies": lambda: list(client.privacy_policy_versions()),
            "rotate": lambda: client.rotate_key("dek", data_classes=[name.bare], reason=why),
            "operation": lambda: client.operation(owner.bare),
            "source": lambda: client.get_source(owner.bare),
            "letters": lambda: client.list_dead_letters(source_id=owner.bare),
            "retry": lambda: client.retry_dead_letters([owner.bare]),
            "datasets": lambda: client.field_values("body", datasets=[owner.bare]),
        }
