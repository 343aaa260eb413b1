"""Where tar files of images are: patterns, addresses and object stores, checked and expanded."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from a2mim.data.folders import DataError, is_hidden

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

NO_STORES = {
    *("asyncwrapper", "blockcache", "cached", "dask", "dir", "filecache", "generic", "libarchive"),
    *("reference", "simplecache", "tar", "zip"),  # up to here: they hand over to other ones
    *("asynclocal", "data", "local"),  # nothing remote
    *("dvc", "git", "gist", "github", "jlab", "jupyter", "pyscript"),  # no streams of large files
}
"""File systems of fsspec from which no shards are read."""


def expand_shards(
    shards: str | Path | Sequence[str | Path], allow_pipe: bool = False
) -> tuple[str, ...]:
    """The addresses of all shards that a pattern, a folder, or a list of them names.

    A ``Path`` is one file, or a folder of shards. A string may also hold braces
    (``train-{000..127}.tar``), ``::`` between several, ``${NAME}`` for the variable ``WDS_NAME``,
    ``*`` and ``?`` for local files, and addresses:

    * what webdataset opens: ``http://``, ``https://``, ``gs://``, ``hf://``, ``sftp://`` and others
      by their usual programs (curl, gsutil);
    * of the others what fsspec opens: ``s3://``, ``az://``, ``oss://``, ``hdfs://`` and others by
      packages of their own (s3fs, adlfs, ...), configured as these say.

    Security: ``pipe:COMMAND`` hands COMMAND to a shell. Who can write the address can run programs
    here, so such addresses are refused unless ``allow_pipe`` says that they come from you. File
    systems of fsspec in :data:`NO_STORES` are always refused.

    Raises:
        DataError: if there is no such file, no way to open an address, or it is a pipe that was
            not allowed.
    """
    return expanded(shards, partial(_check_address, allow_pipe=allow_pipe))


def expanded(
    shards: str | Path | Sequence[str | Path], check: Callable[[str], None]
) -> tuple[str, ...]:
    """As ``expand_shards``; ``check`` refuses addresses."""
    given = [shards] if isinstance(shards, (str, Path)) else list(shards)
    found: list[str] = []
    for one in given:
        for address in _braces(one) if isinstance(one, str) else (str(one),):
            opened = rewritten(address)
            if urlparse(opened).scheme:
                check(opened)
                found.append(address)
            else:
                found += _local(address, pattern=isinstance(one, str))
    if not found:
        raise DataError(f"expected shards, found none for {shards!r}")
    if len(set(found)) < len(found):
        twice = next(address for address in found if found.count(address) > 1)
        raise DataError(f"expected every shard once, got {twice} twice")
    return tuple(found)


def optional(module: str) -> Any:
    """A module of webdataset or fsspec, which only streams and patterns need.

    Raises:
        DataError: if the package is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"expected the package {module.partition('.')[0]} for shards by pattern or address, it "
            "is not installed; pip install 'a2mim[stream]'"
        ) from error


def _braces(text: str) -> list[str]:
    if not any(sign in text for sign in ("{", "::")):
        return [text]
    expand_urls = optional("webdataset.shardlists").expand_urls
    try:
        return expand_urls(text)
    except (AssertionError, ValueError) as error:  # a variable that is not set, odd braces
        raise DataError(f"expected a pattern of shards, cannot expand {text!r}: {error}") from error


def rewritten(address: str) -> str:
    """What webdataset makes of an address by the variable GOPEN_REWRITE; it may become a pipe."""
    if "GOPEN_REWRITE" not in os.environ:
        return address
    return optional("webdataset.gopen").rewrite_url(address)


def _check_address(address: str, allow_pipe: bool) -> None:
    scheme = urlparse(address).scheme
    if scheme == "pipe" and not allow_pipe:
        raise DataError(
            f"expected no commands among the shards, got {address!r}; pass allow_pipe=True if it "
            "is yours, for it will be run by a shell"
        )
    gopen = optional("webdataset.gopen")
    if gopen.gopen_schemes.get(scheme) is gopen.gopen_curl and shutil.which("curl") is None:
        raise DataError(f"expected the program curl to read {address!r}; install it")
    if not for_webdataset(scheme):
        _check_store(address)


def for_webdataset(scheme: str) -> bool:
    """Whether the webdataset library opens addresses of a scheme itself."""
    known = optional("webdataset.gopen").gopen_schemes
    return scheme in {*known, "file", ""} - {"__default__"}


def _check_store(address: str) -> None:
    """Refuse what fsspec does not open, or should not."""
    fsspec = optional("fsspec")
    scheme = address.partition("://")[0]  # as fsspec cuts it; to it, "s3:a" is a local file
    if scheme in NO_STORES or "::" in address:  # braces can make a "::" after the text was split
        raise DataError(
            f"expected the address of a shard in a store, as s3://bucket/a.tar, got {address!r}; "
            "give the shard's own address or path"
        )
    try:
        fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise DataError(
            "expected an address that webdataset opens (http, https, gs, hf, sftp, pipe, ...) or "
            f"fsspec (s3, az, oss, ...), got {address!r}; copy or mount the shards, or read them "
            "by a command, pipe:COMMAND"
        ) from error
    except ImportError as error:
        raise DataError(
            f"expected a package for {scheme}://, got none to read {address!r}: {error} "
            f"({error.__cause__})"
        ) from error
    if "*" in address:
        raise DataError(f"expected braces, as {{000..127}}, in place of * in {address!r}")


def refuse_address(address: str) -> None:
    """Say that an address is not local.

    Raises:
        DataError: always.
    """
    raise DataError(
        f"expected local shards, got {address!r}; read them as a stream (stream:PATTERN, "
        "a2mim.data.stream.ShardStream in Python)"
    )


def _local(address: str, pattern: bool) -> list[str]:
    if os.path.isdir(address):
        visible = [name for name in os.listdir(address) if not is_hidden(name)]
        names = sorted(name for name in visible if name.endswith(SHARD_SUFFIXES))
        if not names:
            raise DataError(f"expected shards ({', '.join(SHARD_SUFFIXES)}) in {address}")
        return [os.path.join(address, name) for name in names]
    if os.path.isfile(address):
        return [address]
    matches = sorted(glob.glob(address)) if pattern else []
    if not matches:
        raise DataError(f"expected a shard, found none at {address}")
    return matches
