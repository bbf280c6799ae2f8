"""What the site shows of methods with the options of a request.

`decoding.signatures.takes_options` gives them their signature when they are imported. The
site's reader of source, Griffe, imports nothing, so it is told here.
"""

import griffe

REQUEST = "codegemma_keras.decoding.request"
# As `request.CURSOR_OPTIONS` and `request.OPTIONS` leave them out.
NOT_OPTIONS = {"prefix", "suffix", "prompt", "stop_token_ids"}


class RequestOptions(griffe.Extension):
    """Replaces `**options` by the fields of `Cursor` and `Request`."""

    def on_package(self, *, pkg, loader, **kwargs):
        fields = [
            field
            for name in ("Cursor", "Request")
            for field in pkg[f"{REQUEST}.{name}".partition(".")[2]].members.values()
            if field.is_attribute and field.name not in NOT_OPTIONS
        ]
        options = [
            griffe.Parameter(
                field.name,
                annotation=field.annotation,
                kind=griffe.ParameterKind.keyword_only,
                default=field.value,
            )
            for field in fields
            if "property" not in field.labels
        ]
        for name in ("causal_lm.CodeGemmaCausalLM", "decoding.session.Session"):
            for method in pkg[name].members.values():
                if not method.is_function:
                    continue
                if any(str(d.value) == "takes_options" for d in method.decorators):
                    shown = [p for p in method.parameters if p.name != "options"]
                    method.parameters = griffe.Parameters(*shown, *options)
