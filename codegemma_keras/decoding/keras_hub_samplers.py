"""KerasHub's contract for samplers that drive the loop themselves.

Beam search, contrastive search and a user's own samplers look at more than one next
token; they get a `next` function over our cache and run in KerasHub's `generate`.
"""

from keras import ops

from codegemma_keras.decoding.stopping import output_mask


def generate_step(lm, inputs, stop_token_ids=None):
    """One batch, as `keras_hub.models.CausalLM.generate_step`."""
    backbone = lm.backbone
    token_ids, padding_mask = inputs["token_ids"], inputs["padding_mask"]
    lengths = ops.sum(ops.cast(padding_mask, "int32"), axis=-1)
    cache = backbone.empty_cache(*ops.shape(token_ids))
    hidden, cache = backbone.forward(token_ids, cache=cache, cache_index=0)

    def next_token(prompt, cache, index):
        token = ops.slice(prompt, [0, index - 1], [ops.shape(prompt)[0], 1])
        hidden, cache = backbone.forward(token, cache=cache, cache_index=index - 1)
        return backbone.logits(hidden)[:, 0], hidden[:, 0], cache

    token_ids = lm.sampler(
        next=next_token,
        prompt=token_ids,
        cache=cache,
        index=ops.min(lengths),
        mask=padding_mask,
        stop_token_ids=stop_token_ids,
        hidden_states=hidden,
        model=lm,
    )
    mask = output_mask(token_ids, padding_mask, stop_token_ids)
    return {"token_ids": token_ids, "padding_mask": mask}
