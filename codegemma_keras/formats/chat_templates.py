"""The turns of a chat as templates in Jinja, which other programs fill in.

`chat.render` writes the turns itself. Programs that read an exported folder or file have
these instead, one for each of `chat.FORMATS`; the tests compare the two.
"""

from codegemma_keras import chat

# Roles in other programs' messages are those of `chat.ROLES`, and it renders the same.
CHAT_TEMPLATE = """\
{{ bos_token }}{% set ns = namespace(system='', turns=0) %}\
{% for message in messages %}\
{% if message['role'] in ['system', 'developer'] %}\
{% if ns.turns %}\
{{ raise_exception('A system message may only lead.') }}{% endif %}\
{% set ns.system = (ns.system + '\\n\\n' + message['content'] | trim) | trim %}\
{% else %}\
{% if (message['role'] == 'user') != (ns.turns % 2 == 0) %}\
{{ raise_exception('User and model take turns, and the user begins.') }}{% endif %}\
{% set content = message['content'] | trim %}\
{% if not ns.turns %}{% set content = (ns.system + '\\n\\n' + content) | trim %}\
{% endif %}\
{% set ns.turns = ns.turns + 1 %}\
{{ '<start_of_turn>' + ('user' if message['role'] == 'user' else 'model') + '\\n' \
+ content + '<end_of_turn>\\n' }}\
{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

# Of `chat.FORMATS["smollm2"]`, with our names of the tokens.
SMOLLM2_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}\
{% if loop.first and message['role'] != 'system' %}\
{{ '<start_of_turn>system\\n"""
SMOLLM2_TEMPLATE += chat.FORMATS["smollm2"].system
SMOLLM2_TEMPLATE += """\
<end_of_turn>\\n' }}{% endif %}\
{{ '<start_of_turn>' + message['role'] + '\\n' + message['content'] | trim \
+ '<end_of_turn>\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n' }}{% endif %}"""
CHAT_TEMPLATES = {"gemma": CHAT_TEMPLATE, "smollm2": SMOLLM2_TEMPLATE}
