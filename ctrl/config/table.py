"""What tables of the config are made of: kinds of values, and `key`, which keeps, beside pydantic's
constraints, the words that errors and the README's table show."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from ctrl.config import values
from ctrl.config.finding import any_of
from ctrl.config.values import IPInterface
from fastpath.model import IPAddress, IPNetwork

# Nobody else's code has a word in what a config is; to look for some in all that is installed takes 10 ms.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"


class Read:
    """Marks a type whose values `read` makes of what stands in the file.

    Not pydantic's PlainValidator: that works out, twice, how such values would be written, which nobody
    does, and each start would wait for it.
    """

    def __init__(self, read: Callable[[object], Any]) -> None:
        self._read = read

    def __get_pydantic_core_schema__(self, _: object, __: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)


EncapName = Literal["vxlan", "nvgre"]
SourceName = Literal["own", "keep"]

Address = Annotated[IPAddress, Read(values.unicast)]
Group = Annotated[IPAddress, Read(values.group)]
Prefix = Annotated[IPNetwork, Read(values.sender_prefix)]
InnerPrefix = Annotated[IPNetwork, Read(values.inner_prefix)]
Interface = Annotated[IPInterface, Read(values.interface)]
Mac = Annotated[bytes, Read(values.mac)]
Name = Annotated[str, Read(values.name)]
VniRange = Annotated[tuple[int, int], Read(values.vni_range)]
Number = Annotated[int, Field(ge=1, le=values.MAX_NUMBER)]
Vsid = Annotated[int, Field(ge=values.MIN_VSID, le=values.MAX_VSID)]
Items = BeforeValidator(values.as_items)
Tables = BeforeValidator(values.as_tables)

VNI = f"a number from 1 to {values.MAX_NUMBER}"
VSID = f"a number from {values.MIN_VSID} to {values.MAX_VSID} (RFC 7637 reserves the others)"
ADDRESS = "the unicast address of a host"
GROUP = "a multicast group above the link-local range"
PREFIXES = "a list of prefixes or addresses"
ENCAPS = ("vxlan", "nvgre")
SOURCES = ("own", "keep")


class Table(BaseModel):
    """A TOML table: unknown keys are errors, types are not converted, values do not change.

    What reads a whole config is built when the first is read; by itself no other table is.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, defer_build=True
    )


def key(
    meaning: str,
    legal: str,
    default: Any = ...,
    *,
    alias: str | None = None,
    words: tuple[str, ...] = (),
    shown: str | None = None,
    make: Callable[[], Any] | None = None,
    **limits: Any,
) -> Any:
    """Declare a key: what it means and what it takes, in words; `words` are the literals for suggestions,
    `shown` is the default as the README shows it where the plain value would mislead."""
    extra: dict[str, Any] = {"legal": legal, "words": list(words), "shown": shown}
    if make is not None:
        return Field(
            default_factory=make, alias=alias, description=meaning, json_schema_extra=extra, **limits
        )
    return Field(default, alias=alias, description=meaning, json_schema_extra=extra, **limits)


def word(meaning: str, words: tuple[str, ...], default: Any, shown: str | None = None) -> Any:
    """Declare a key that takes one of a few words."""
    return key(meaning, any_of([f'"{w}"' for w in words]), default, words=words, shown=shown)


def switch(meaning: str, default: bool) -> Any:
    """Declare a key that is true or false."""
    return key(meaning, "true or false", default)


def seconds(meaning: str, default: float, least: float, most: float) -> Any:
    """Declare a key that takes a time in seconds."""
    return key(meaning, f"seconds, from {least:g} to {most:g}", default, ge=least, le=most)


def bound(meaning: str, default: int, most: int) -> Any:
    """Declare a key that bounds how many there may be of something."""
    return key(meaning, f"a number from 1 to {most}", default, ge=1, le=most)
