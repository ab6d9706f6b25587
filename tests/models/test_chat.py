import pytest

from rac.definitions import Chat
from rac.errors import RacError
from rac.models import chat, checkpoint
from rac.models.reasoner import WEIGHTS

ASKED = [{"role": "user", "content": "1+1?"}]
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% if enable_thinking is not defined or enable_thinking %}"
    "<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@pytest.fixture
def tokenizer():
    tokenizer = checkpoint.load_tokenizer(WEIGHTS)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.mark.parametrize(
    ("settings", "prompt", "opening"),
    [
        ({}, "[user] 1+1?\n[assistant] <think>\n", "<think>\n"),
        ({"thinking": True}, "[user] 1+1?\n[assistant] <think>\n", "<think>\n"),
        ({"thinking": False}, "[user] 1+1?\n[assistant] <think>\n\n</think>\n\n", ""),
        ({"system": "Think."}, "[system] Think.\n[user] 1+1?\n[assistant] <think>\n", "<think>\n"),
    ],
)
def test_a_system_prompt_and_the_thinking_switch(tokenizer, settings, prompt, opening):
    assert chat.render(tokenizer, ASKED, Chat(**settings)) == prompt
    assert chat.opening(prompt) == opening
    ids = chat.token_ids(tokenizer, prompt)
    assert tokenizer.decode(ids) == prompt


def test_messages_that_bring_a_system_prompt_keep_it(tokenizer):
    messages = [{"role": "system", "content": "Own."}, *ASKED]
    rendered = chat.render(tokenizer, messages, Chat(system="Think."))
    assert rendered.startswith("[system] Own.") and "Think." not in rendered


def test_a_template_that_refuses_is_one_line(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no system\nprompt here') }}"
    with pytest.raises(RacError, match="the chat template of .* refuses: no system prompt here"):
        chat.render(tokenizer, ASKED, Chat())


def test_a_hostile_template_runs_in_the_sandbox(tokenizer):
    tokenizer.chat_template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(RacError, match="refuses: access to attribute '__class__'"):
        chat.render(tokenizer, ASKED, Chat())
