"""What a model is told: messages rendered by its own chat template."""

import re
from typing import TYPE_CHECKING, Any

from rac.definitions import Chat
from rac.errors import RacError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPENED = re.compile(r"<think>\s*\Z")


def render(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], chat: Chat) -> str:
    """The prompt: messages by the tokenizer's chat template, ready for the model to go on.

    A last message of the assistant is one that it is to continue.

    Args:
        tokenizer: with a chat template.
        messages: dicts of role and content.
        chat: of the model's definition; a system prompt comes first unless the messages bring one.

    Raises:
        RacError: the template refuses the messages.
    """
    if chat.system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": chat.system}, *messages]
    prefilled = messages[-1]["role"] == "assistant"
    switch: dict[str, Any] = {} if chat.thinking is None else {"enable_thinking": chat.thinking}
    try:
        prompt = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not prefilled,
            continue_final_message=prefilled,
            **switch,
        )
    except (
        Exception
    ) as error:  # a template is a program, run in jinja's sandbox: it may fail in any way
        refused = f"the chat template of {tokenizer.name_or_path} refuses: {one_line(error)}"
        raise RacError(refused) from None
    return str(prompt)


def token_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """Token ids of a rendered prompt, in which the template wrote the special tokens itself."""
    return tokenizer(prompt, add_special_tokens=False)["input_ids"]


def opening(prompt: str) -> str:
    """The `<think>` with which a prompt ends, so that the answer begins inside a thought; or nothing."""
    found = _OPENED.search(prompt)
    return found[0] if found else ""
