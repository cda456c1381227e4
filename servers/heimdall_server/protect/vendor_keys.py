"""Rules for keys that vendors mark with a prefix, and for passwords where labels and signs differ: class `secret`."""

from __future__ import annotations

from typing import Final

from heimdall_server.protect.credentials import ANY_SECRET_GATE
from heimdall_server.protect.labels import Labels, labelled
from heimdall_server.protect.rules import SPARSE, START, Rule
from heimdall_server.protect.stems import folded

_KEY_STEMS: Final = (
    "sk-proj-", "sk-svcacct-", "sk-admin-", "sk-ant-", "sk-or-", "sk-lf-", "t3blbkfj", "api/webhooks/", "doo_v1_", "dop_v1_",
    "dor_v1_", "shpat_", "shpca_", "shppa_", "shpss_", "pypi-a", "rubygems_", "dckr_", "dapi", "glsa_", "glc_", "nrak-", "sntrys_",
    "sntryu_", "lin_api_", "ntn_", "pmak-", "hvb.", "hvs.", "hvr.", ".atlasv1.", "age-secret-key-", "atatt3", "atbb",
)  # fmt: skip
_KEYS: Final = "|".join((  # noqa: FLY002 (one kind a line)
    r"sk-(?:proj|svcacct|admin|ant|or|lf)-[A-Za-z0-9_-]{20,}|sk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}",  # OpenAI and others
    r"discord(?:app)?\.com/api/webhooks/[0-9]{15,21}/[A-Za-z0-9_-]{50,}",
    "do[opr]_v1_[0-9a-f]{64}",  # DigitalOcean
    "shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}",  # Shopify
    "pypi-A[A-Za-z0-9_-]{60,}|rubygems_[0-9a-f]{48}",
    "dckr_(?:pat|oat)_[A-Za-z0-9_-]{24,40}|dapi[0-9a-f]{32}(?:-[0-9])?",  # Docker, Databricks
    "glsa_[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}|glc_[A-Za-z0-9+/=]{32,}",  # Grafana
    "NRAK-[A-Z0-9]{27}|sntry[su]_[A-Za-z0-9+/=_-]{40,}",  # New Relic, Sentry
    "lin_api_[A-Za-z0-9]{40}|ntn_[A-Za-z0-9]{40,50}",  # Linear, Notion
    "PMAK-[0-9a-f]{24}-[0-9a-f]{34}",  # Postman
    r"hv[bsr]\.[A-Za-z0-9_-]{24,}|[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,70}",  # HashiCorp
    "AGE-SECRET-KEY-1[A-Z0-9]{58}",
    "ATATT3[A-Za-z0-9_=-]{100,}|ATBB[A-Za-z0-9]{32}",  # Atlassian
))  # fmt: skip

CODE_LABELS: Final = Labels(
    "one_time_(?:password|code)|verification_code|security_code|card_verification_(?:value|code)",
    "otp|cvv2|cvv|cvc2|cvc|totp|mfa_code|2fa_code|pin_code|pin",
    (
        "one_time_p",
        "one_time_c",
        "verification_code",
        "security_code",
        "verification_value",
        "otp=",
        "cvv2=",
        "cvv=",
        "cvc2=",
        "cvc=",
        "totp=",
        "mfa_code=",
        "2fa_code=",
        "pin_code=",
        "pin=",
    ),
)
_SHARED_STEMS: Final = ("account_key", "shared_access_key", "sig=", "amz_signature", "amz_security", "goog_signature")

VENDOR_KEY_RULES: Final = (
    Rule(
        "vendor_key",
        "secret",
        folded(_KEY_STEMS),
        f"{START}(?:{_KEYS})",
        group=SPARSE,
        stems=_KEY_STEMS,
    ),
    # Its mark is too short to be looked for as others are.
    Rule("hugging_face_key", "secret", "hf_[A-Za-z]{6}", rf"{START}hf_[A-Za-z]{{30,40}}", group=SPARSE),
    Rule(
        "shared_key",
        "secret",
        folded(_SHARED_STEMS),
        r"((?i:AccountKey|SharedAccessKey|\bsig|X-Amz-Signature|X-Amz-Security-Token|X-Goog-Signature)=)[A-Za-z0-9+/=%_-]{30,}",
        group=SPARSE,
        stems=_SHARED_STEMS,
    ),
    Rule(
        "password_option",
        "secret",
        ANY_SECRET_GATE,
        r"""((?:^|[ \t"'=])--(?i:(?:[a-z]{1,12}-)?(?:password|passwd|passphrase|token|secret|api-?key))[ \t]{1,3}["']?)"""
        r"""[^ \t\r\n"'\\<>\[-][^ \t\r\n"'\\]{2,}""",
        group="words",
    ),
    *labelled("code", "secret", CODE_LABELS, r"[0-9]{3,8}\b", number=r"[0-9]{3,8}\b"),
)
