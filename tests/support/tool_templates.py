"""Chat template with tools, as models of the Hermes family have it."""

from bem.backbone import Backbone
from bem.testing import tiny_backbone

TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n# Tools\n' }}"
    "{% for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}"
    "{{ 'Answer with <tool_call></tool_call>.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '<tool_call>\n' + (call['function'] | tojson) + '\n</tool_call>' }}"
    "{% endfor %}"
    "{{ '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tool_backbone() -> Backbone:
    """Return the tiny model with a longer context and the template."""
    backbone = tiny_backbone(context_tokens=1024)
    backbone.tokenizer.chat_template = TEMPLATE
    return backbone
