"""Transformers' module of a model: what a user without Secateur would load from its checkpoint."""

from __future__ import annotations

from torch.nn import Module

from secateur.checkpoint.configuration_secateur import SecateurConfig, slim_config
from secateur.checkpoint.modeling_secateur import SecateurForCausalLM
from secateur.model.decoder import DecoderModel, architecture_of, named_tensors


def transformers_module(model: DecoderModel) -> Module:
    """Transformers' module of a model of any widths, with copies of its weights, ready to run."""
    from transformers.initialization import no_init_weights

    config = model.config
    if not isinstance(config, SecateurConfig):  # that of the dense model
        shape = architecture_of(model)
        config = slim_config(config, shape.groups, shape.channels)
    with no_init_weights(), model.device:
        module: Module = SecateurForCausalLM(config)
    module.load_state_dict(named_tensors(model), strict=False)
    if model.tied:
        module.lm_head.weight = module.model.embed_tokens.weight  # type: ignore[union-attr]
    return module.to(model.device, model.dtype).eval()
