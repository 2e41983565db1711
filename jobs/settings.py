"""What whoever runs the server decides: by options behind `--`, or by variables of the environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from graphs.errors import RequestError

TRUST, PUBLIC, ENGINE = "--trust-uploads", "--public", "--engine"
SWITCHES = {"1": True, "0": False, "": False}
MiB = 1 << 20


class Settings(msgspec.Struct, frozen=True):
    """How a server treats its readers.

    Attributes:
        trust_uploads: models' files run even where nothing can hold them back.
        public: readers look at what there is and bring nothing.
        files_of_a_reader: that a reader may bring, in one session.
        bytes_of_a_reader: of those files together.
        bytes_of_all_readers: of all files that are kept; they are never dropped by themselves.
        waiting_of_a_reader: jobs of a reader that may wait.
        waiting: jobs of all readers that may wait.
        engine: who does the work: `local`, or the address of a cluster.
    """

    trust_uploads: bool = False
    public: bool = False
    files_of_a_reader: int = 100
    bytes_of_a_reader: int = 400 * MiB
    bytes_of_all_readers: int = 20 << 30
    waiting_of_a_reader: int = 20
    waiting: int = 400
    engine: str = "local"


def settings(arguments: Sequence[str], variables: Mapping[str, str]) -> Settings:
    """What was said; an option wins over its variable.

    Raises:
        RequestError: the engine's address is missing, or a variable says neither yes nor no.
    """
    engine = variables.get("FXSCOPE_ENGINE") or "local"
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{ENGINE}="):
            engine = argument.partition("=")[2]
        elif argument == ENGINE:
            if place + 1 == len(arguments):
                raise RequestError("no engine is named", where=ENGINE, help=f"Write {ENGINE} local, or {ENGINE} ray://HOST:PORT.")
            engine = arguments[place + 1]
    return Settings(
        trust_uploads=TRUST in arguments or _is_on("FXSCOPE_TRUST_UPLOADS", variables),
        public=PUBLIC in arguments or _is_on("FXSCOPE_PUBLIC", variables),
        engine=engine,
    )


def refuse_others(arguments: Sequence[str]) -> None:
    """Whoever mistypes `--public` must not believe that the server is.

    Args:
        arguments: what stands behind `--`.

    Raises:
        RequestError: one of them is no option of the app.
    """
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if argument not in (TRUST, PUBLIC, ENGINE) and not argument.startswith(f"{ENGINE}=") and before != ENGINE:
            known = f"There is: {PUBLIC}, {TRUST}, {ENGINE} ray://HOST:PORT; options of Streamlit stand before `--`."
            raise RequestError(f"`{argument}` is not an option of this app", where="the command line", help=known)


def _is_on(name: str, variables: Mapping[str, str]) -> bool:
    said = variables.get(name, "")
    if said not in SWITCHES:
        raise RequestError(f"{name} cannot be `{said}`", where=name, help="Set it to 1 or 0, or leave it out.")
    return SWITCHES[said]
