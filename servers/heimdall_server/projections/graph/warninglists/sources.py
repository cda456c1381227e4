"""Where new lists are read from: a folder, an archive or an address, each within bounds. Nothing that is read is run or unpacked to disk."""

from __future__ import annotations

import io
import ssl
import tarfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path, PurePosixPath
from typing import IO, Final
from urllib.parse import urlsplit

from heimdall_server.domain.errors import InvalidArgumentError, StoreError

LIST_FILE: Final = "list.json"
"""In a folder of the list's name, as MISP has it. A folder or an archive may have it anywhere: below `lists`, below another folder."""
_ARCHIVES: Final = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """How much is read, and how long it may take."""

    deadline_s: float = 60.0
    """For a download as a whole."""
    download_bytes_max: int = 256 << 20
    file_bytes_max: int = 64 << 20
    """Of one list, after decompression."""
    all_bytes_max: int = 512 << 20
    """Of all lists together, after decompression."""
    file_count_max: int = 1_024
    tar_bytes_max: int = 4 << 30
    """Of all that a tar holds, after decompression: what isn't wanted is read, too."""


def read_lists(source: str, limits: SourceLimits | None = None) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the lists of a source.

    Args:
        source: A folder, an archive (zip, tar), or an address that begins with https:// of one.
        limits: Bounds.

    Raises:
        InvalidArgumentError: It is none of these, or goes beyond a bound.
        StoreError: It can't be had.
    """
    limits = limits or SourceLimits()
    if "://" in source:
        yield from _bounded(_of_archive(io.BytesIO(_download(source, limits)), source, limits), limits)
        return
    path = Path(source)
    try:
        if path.is_dir():
            yield from _bounded(_of_folder(path, limits), limits)
        elif path.is_file():
            with path.open("rb") as file:
                yield from _bounded(_of_archive(file, source, limits), limits)
        else:
            raise InvalidArgumentError("source", f"{source!r} is neither a folder nor a file nor an https address")
    except OSError as error:
        raise StoreError("the source of lists", f"{source}: {error.strerror or error}") from error


class _OnlyTls(urllib.request.HTTPRedirectHandler):
    """Doesn't follow to where nobody proves who they are."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise StoreError("the source of lists", "it refers to an address that isn't https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(address: str, limits: SourceLimits) -> bytes:
    if urlsplit(address).scheme != "https":
        raise InvalidArgumentError("source", "an address begins with https://")
    end_s = time.monotonic() + limits.deadline_s
    context = ssl.create_default_context()  # with the system's authorities; `SSL_CERT_FILE` names others
    opener = urllib.request.build_opener(_OnlyTls, urllib.request.HTTPSHandler(context=context))
    content = bytearray()
    try:
        with opener.open(address, timeout=limits.deadline_s) as answer:
            while piece := answer.read1(1 << 20):
                content += piece
                if len(content) > limits.download_bytes_max:
                    raise InvalidArgumentError("source", f"it is larger than {limits.download_bytes_max:,} bytes")
                if time.monotonic() > end_s:
                    raise TimeoutError
    except TimeoutError as error:
        raise StoreError("the source of lists", f"it took longer than {limits.deadline_s:g} s") from error
    except (OSError, HTTPException, ValueError) as error:
        raise StoreError("the source of lists", f"it can't be had: {error}") from error
    return bytes(content)


def _bounded(lists: Iterator[tuple[str, bytes]], limits: SourceLimits) -> Iterator[tuple[str, bytes]]:
    count, size_bytes = 0, 0
    for name, content in lists:
        count, size_bytes = count + 1, size_bytes + len(content)
        if count > limits.file_count_max:
            raise InvalidArgumentError("source", f"it has more than {limits.file_count_max:,} lists")
        if size_bytes > limits.all_bytes_max:
            raise InvalidArgumentError("source", f"its lists are larger than {limits.all_bytes_max:,} bytes")
        yield name, content
    if not count:
        raise InvalidArgumentError("source", f"there is no NAME/{LIST_FILE} in it")


def _of_folder(folder: Path, limits: SourceLimits) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob(LIST_FILE)):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                yield path.parent.name, _read(file, path.parent.name, limits)


def _of_archive(file: IO[bytes], source: str, limits: SourceLimits) -> Iterator[tuple[str, bytes]]:
    try:
        if zipfile.is_zipfile(file):
            file.seek(0)
            yield from _of_zip(file, limits)
            return
        file.seek(0)
        yield from _of_tar(file, limits)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        kinds = ", ".join(_ARCHIVES)
        raise InvalidArgumentError("source", f"{source!r} can't be read as an archive ({kinds}): {error}") from error


def _of_zip(file: IO[bytes], limits: SourceLimits) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        for one in archive.infolist():
            name = _name_in(one.filename)
            if name and not one.is_dir():
                with archive.open(one) as member:
                    yield name, _read(member, name, limits)


def _of_tar(file: IO[bytes], limits: SourceLimits) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        size_bytes = 0
        for one in archive:
            size_bytes += one.size
            if size_bytes > limits.tar_bytes_max:
                raise InvalidArgumentError("source", f"it holds more than {limits.tar_bytes_max:,} bytes")
            name = _name_in(one.name)
            member = archive.extractfile(one) if name and one.isreg() else None
            if member is not None:
                yield name, _read(member, name, limits)


def _name_in(path: str) -> str:
    """The list that a member of an archive is; empty: none."""
    parts = PurePosixPath(path).parts
    return parts[-2] if len(parts) > 1 and parts[-1] == LIST_FILE else ""


def _read(file: IO[bytes], name: str, limits: SourceLimits) -> bytes:
    content = file.read(limits.file_bytes_max + 1)
    if len(content) > limits.file_bytes_max:
        raise InvalidArgumentError("source", f"the list {name!r} is larger than {limits.file_bytes_max:,} bytes")
    return content
