"""Paths of files and keys of the Windows registry."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import pyarrow as pa

from heimdall_server.canonical.characters import controlled
from heimdall_server.canonical.column import Canonical, CanonicalColumn, Change, Exact, Refused, canonicalise, stable

System: TypeAlias = Literal["auto", "windows", "posix"]

PATH_CHARACTERS_MAX: Final = 32_767
"""Of a path of the Windows API; POSIX systems allow 4,096."""
RELATIVE_CONFIDENCE: Final = 0.5
NAME_CONFIDENCE: Final = 0.3
"""Of a name without a folder, which could be any word."""

HIVES: Final[Mapping[str, str]] = {
    "HKLM": "HKEY_LOCAL_MACHINE",
    "HKCU": "HKEY_CURRENT_USER",
    "HKCR": "HKEY_CLASSES_ROOT",
    "HKU": "HKEY_USERS",
    "HKCC": "HKEY_CURRENT_CONFIG",
    "HKPD": "HKEY_PERFORMANCE_DATA",
}
"""Abbreviations of the predefined keys (winreg.h)."""
REGISTRY_CHARACTERS_MAX: Final = 32_767

_KERNEL_HIVES: Final = {("registry", "machine"): "HKEY_LOCAL_MACHINE", ("registry", "user"): "HKEY_USERS"}
_HIVE_NAMES: Final = frozenset(HIVES.values())
_DEVICE: Final = re.compile(r"\\(?:\\[?.]|\?\?)\\(?:(UNC)\\)?", re.IGNORECASE)
_DRIVE: Final = re.compile(r"[A-Za-z]:", re.ASCII)
_FORBIDDEN: Final = frozenset('<>"|?*')

_TOO_LONG: Final = Refused("it is longer than a path can be")
_CONTROL: Final = Refused("a control character is in it")
_EMPTY: Final = Refused("it is empty")
_DRIVE_RELATIVE: Final = Refused("it is relative to a drive's current folder, which it doesn't say")
_NOT_WINDOWS: Final = Refused("it holds a character that no path of Windows can")
_NO_SHARE: Final = Refused("it names a server without a share")
_NO_HIVE: Final = Refused("it doesn't begin with a hive of the registry")


def file_path(values: pa.StringArray, *, system: System = "auto") -> CanonicalColumn:
    r"""Paths of files.

    Windows (Win32 "Naming Files, Paths, and Namespaces"): lower case, since names are compared without it; backslashes, `.` and `..`
    resolved, dots and blanks at the end of names removed, `\\?\` left out. POSIX (POSIX.1-2017 XBD §4.13): repeated slashes and `.`
    removed; `..` stays, since what is before it could be a symbolic link, and so do two slashes at the start.

    Args:
        values: Paths.
        system: Whose paths they are; `auto`: drives, shares and backslashes tell.
    """
    return canonicalise(values, rule_for(system))


def registry_key(values: pa.StringArray) -> CanonicalColumn:
    """Keys of the registry: the hive in full and in capitals (STIX 2.1 §6.18), the rest in lower case, since keys are compared without it."""
    return canonicalise(values, read_registry_key)


@functools.cache
def rule_for(system: System) -> Exact:
    """The rule of `file_path` for one value."""

    def read(text: str) -> Canonical | Refused:
        if len(text) > PATH_CHARACTERS_MAX:
            return _TOO_LONG
        value = text.strip()
        changes = Change.NONE if value == text else Change.TRIMMED
        if controlled(value):
            return _CONTROL
        normal = value if value.isascii() else unicodedata.normalize("NFC", value)
        if normal != value:
            changes |= Change.CHARACTERS
        if not normal:
            return _EMPTY
        if system == "windows" or (system == "auto" and _from_windows(normal)):
            return _windows(normal, changes)
        return _posix(normal, changes)

    return stable(read)


def _from_windows(path: str) -> bool:
    return bool(_DRIVE.match(path)) or path.startswith("\\\\") or ("\\" in path and "/" not in path)


def _posix(path: str, changes: Change) -> Canonical | Refused:
    root = "//" if path.startswith("//") and not path.startswith("///") else "/" if path.startswith("/") else ""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    written = root + "/".join(parts) or "."
    if written != path:
        changes |= Change.NOTATION
    confidence = 1.0 if root else RELATIVE_CONFIDENCE if len(parts) > 1 else NAME_CONFIDENCE
    return Canonical(written, changes, confidence)


def _windows(path: str, changes: Change) -> Canonical | Refused:
    slashed = path.replace("/", "\\")
    device = _DEVICE.match(slashed)
    if device:
        slashed = ("\\\\" if device[1] else "") + slashed[device.end() :]
    root, rest = _root(slashed)
    if isinstance(root, Refused):
        return root
    out: list[str] = []
    for part in rest.split("\\"):
        if part == "..":
            if out and out[-1] != "..":
                out.pop()
            elif not root:
                out.append("..")
            continue
        name = part.rstrip(". ")
        if name:
            out.append(name)
    written = root + "\\".join(out) or "."
    lowered = unicodedata.normalize("NFC", written.lower())
    if _FORBIDDEN.intersection(lowered):
        return _NOT_WINDOWS
    if written != path:
        changes |= Change.NOTATION
    if lowered != written:
        changes |= Change.CASE
    confidence = 1.0 if root else RELATIVE_CONFIDENCE if len(out) > 1 else NAME_CONFIDENCE
    return Canonical(lowered, changes, confidence)


def _root(path: str) -> tuple[str | Refused, str]:
    if _DRIVE.match(path):
        return (path[:2] + "\\", path[2:]) if path[2:3] in ("\\", "") else (_DRIVE_RELATIVE, "")
    if not path.startswith("\\\\"):
        return ("\\", path[1:]) if path.startswith("\\") else ("", path)
    server, _, rest = path[2:].lstrip("\\").partition("\\")
    share, _, rest = rest.lstrip("\\").partition("\\")
    if not server.rstrip(". ") or not share.rstrip(". "):
        return _NO_SHARE, ""
    return f"\\\\{server}\\{share}\\", rest


def _read_registry_key(text: str) -> Canonical | Refused:
    if len(text) > REGISTRY_CHARACTERS_MAX:
        return _TOO_LONG
    value = text.strip()
    changes = Change.NONE if value == text else Change.TRIMMED
    if controlled(value):
        return _CONTROL
    parts = [part for part in value.split("\\") if part]
    if parts and parts[0].lower() in ("computer", "my computer"):
        parts, changes = parts[1:], changes | Change.LABEL
    if not parts:
        return _NO_HIVE
    kernel = _KERNEL_HIVES.get((parts[0].lower(), parts[1].lower())) if len(parts) > 1 else None
    if kernel:
        hive, rest = kernel, parts[2:]
    else:
        # PowerShell writes `HKLM:\…` and `Registry::HKEY_…`.
        named = parts[0].upper().removeprefix("REGISTRY::").removesuffix(":")
        hive, rest = HIVES.get(named, named), parts[1:]
        if hive not in _HIVE_NAMES:
            return _NO_HIVE
    written = "\\".join((hive, *rest))
    lowered = "\\".join((hive, *(unicodedata.normalize("NFC", part.lower()) for part in rest)))
    if written != value:
        changes |= Change.NOTATION
    if lowered != written:
        changes |= Change.CASE
    return Canonical(lowered, changes)


read_registry_key: Final = stable(_read_registry_key)
"""The rule of `registry_key` for one value."""
