"""A tokenizer's own chat template, rendered as transformers renders it: Jinja in a sandbox, nothing else.

As `_compile_jinja_template` of transformers (src/transformers/utils/chat_template_utils.py) sets it up. The
date is a fixed one, for packs must not change from day to day.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.workload.blocks import bad_data
from tgsbench.workload.rows import Turn

_TODAY: Final = datetime.datetime(2026, 1, 1)
Piece = tuple[str, bool]
"""Text, and whether it is an answer."""


class ChatTemplate:
    """Renders conversations; `name` is said in messages."""

    def __init__(self, template: str, specials: dict[str, str], name: str) -> None:
        self._name = name
        self._specials = specials
        self._render = _compiled(template, name)

    def text(self, turns: Sequence[Turn], *, asks: bool = False) -> str:
        """A conversation as text; `asks`: with what begins an answer.

        Raises TgsError when the template refuses it.
        """
        messages = [turn._asdict() for turn in turns]
        try:
            rendered: str = self._render(
                messages=messages, tools=None, documents=None, add_generation_prompt=asks, **self._specials
            )
        except _errors() as error:
            why = (str(error) or repr(error)).splitlines()[0]
            raise bad_data(
                f"the chat template of {self._name} refuses it: {why}",
                "leave such conversations out, or name another tokenizer",
            ) from error
        return rendered

    def pieces(self, turns: Sequence[Turn]) -> list[Piece]:
        """The text of a conversation, cut where answers begin and end.

        Raises TgsError when the template writes a turn otherwise once others follow, so that nothing tells
        where its answers are.
        """
        whole = self.text(turns)
        pieces: list[Piece] = []
        at = 0
        for index, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            asked = self.text(turns[:index], asks=True)
            answered = self.text(turns[: index + 1]) if index + 1 < len(turns) else whole
            if not (whole.startswith(asked) and whole.startswith(answered) and at <= len(asked)):
                raise bad_data(
                    f"the chat template of {self._name} does not tell where answer {index + 1} begins: "
                    "it writes turns otherwise once others follow",
                    "--set workload.labels=all",
                )
            pieces += [(whole[at : len(asked)], False), (whole[len(asked) : len(answered)], True)]
            at = len(answered)
        return [piece for piece in [*pieces, (whole[at:], False)] if piece[0]]


def _compiled(template: str, name: str) -> Callable[..., str]:
    jinja2 = _jinja()

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = _TODAY.strftime
    try:
        render: Callable[..., str] = environment.from_string(template).render
    except (jinja2.exceptions.TemplateError, RecursionError, SyntaxError, ValueError) as error:
        # SyntaxError: of the Python that Jinja makes of it, as of `{{ x[:, 9] }}`.
        raise bad_data(
            f"the chat template of {name} cannot be read: {error}", "name another tokenizer"
        ) from error
    return render


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _generation_tag() -> type[Any]:
    """`{% generation %}`, by which some templates mark answers; here it changes nothing."""
    jinja2 = _jinja()

    class Generation(jinja2.ext.Extension):  # type: ignore[misc,name-defined]
        tags: Final = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation


def _errors() -> tuple[type[Exception], ...]:
    # What a template may do with values that it did not expect.
    unexpected = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
    return (_jinja().exceptions.TemplateError, *unexpected)


def _jinja() -> Any:
    try:
        import jinja2
        import jinja2.exceptions
        import jinja2.ext
        import jinja2.sandbox
    except ImportError as error:
        raise TgsError(
            "a chat template needs the package jinja2, which is not installed",
            hint=f"{pip_install('train')}, or rows of text",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    return jinja2
