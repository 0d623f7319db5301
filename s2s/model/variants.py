"""The table of attention variants: a new one is a file and a line here."""

from s2s.model.attention import DotProductAttention

ATTENTIONS = {"dot": DotProductAttention}
