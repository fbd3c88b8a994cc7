"""Chat templates: rendered as their model wants it, and kept from everything else."""

from __future__ import annotations

import pytest

from node.manifest import ModelError
from node.runner.chat_template import ChatTemplate
from node.runner.kinds import BadInputError

SMOL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello"}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def rendered(source: str) -> str:
    return ChatTemplate(source, TOKENS).render(HELLO)


def test_a_chat_becomes_the_text_up_to_the_answer():
    assert rendered(SMOL) == (
        "<|im_start|>system\nBe helpful<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_template_may_name_tokens_count_and_keep_values():
    source = "{{ bos_token }}{% set ns = namespace(n=1) %}{% for i in range(3) %}" + (
        "{% set ns.n = ns.n * 2 %}{% endfor %}{{ ns.n % 5 }}{{ messages[0].content | trim }}"
    )

    assert rendered(source) == "<s>3Hello"


def test_a_template_may_refuse_messages():
    with pytest.raises(BadInputError, match="roles must alternate"):
        rendered("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize("name", ["range", "raise_exception", "messages", "namespace"])
def test_what_a_template_may_name_leads_nowhere(name: str):
    assert rendered(f"{{{{ {name}.__globals__ }}}}{{{{ {name}['__class__'] }}}}") == ""


@pytest.mark.parametrize(
    "source",
    [
        "{% for",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ 'a' * 1000000000 }}",
        "{{ [1] * 1000000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'a'.center(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a' | indent(1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ range(1000000000) | list }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}abcdefgh{% endfor %}{% endfor %}",
        "{{ 1 // 0 }}",
        "{{ unknown.attribute }}",
        "{% include 'file' %}",
        "{% import 'os' as os %}",
        "{{ messages[7].content }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_template_gets_at_nothing_and_makes_nothing_large(source: str):
    with pytest.raises(ModelError) as caught:
        rendered(source)

    assert caught.value.code == "model-template"


@pytest.mark.parametrize("source", ["{{ 'a'.encode('none') }}", "{{ 'a'.index('z') }}"])
def test_whatever_a_template_stumbles_over_is_the_templates_fault(source: str):
    with pytest.raises(ModelError) as caught:
        ChatTemplate(source, {}).render([{"role": "user", "content": "a"}])

    assert caught.value.code == "model-template"
