"""Tokenizers as those of T5, BART, GPT-2 and Qwen have them, trained on a few sentences."""

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "the quick brown fox jumps over the lazy dog.",
    "kicking; quickly! a b 7 Word x Z",
    "Title: a source and a target",
    "summarize: this",
    *("a.\n", "b.\n", "c.\n") * 3,
] * 3
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's and Llama 3's, which makes one word of a mark and the line end after it."""
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bpe(special: list[str], words: str | None = None) -> Tokenizer:
    tokenizer, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)
    split = [] if words is None else [pre_tokenizers.Split(Regex(words), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, pieces])
    tokenizer.decoder = decoders.ByteLevel()
    given = {"special_tokens": special, "show_progress": False, "vocab_size": 400, "initial_alphabet": alphabet}
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(**given))
    return tokenizer


def framed(tokenizer: Tokenizer, frame: str) -> Tokenizer:
    special = [(name, tokenizer.token_to_id(name)) for name in frame.split() if not name.startswith("$")]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=special)
    return tokenizer


def t5() -> Any:
    return unigram(["<pad>", "</s>", "<unk>"])


def marian() -> Any:
    """Padding is its last piece."""
    return unigram(["</s>", "<unk>"])


def unigram(special: list[str]) -> Any:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(special_tokens=special, unk_token="<unk>", vocab_size=70, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(["<pad>"])
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=framed(tokenizer, "$A </s>"), **names)


def bart() -> Any:
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = framed(bpe(["<s>", "<pad>", "</s>", "<unk>"]), "<s> $A </s>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, sep_token="</s>", cls_token="<s>", **names)


def gpt2() -> Any:
    names = dict.fromkeys(("eos_token", "bos_token", "unk_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=bpe(["<|endoftext|>"]), **names)


def qwen() -> Any:
    tokenizer = bpe(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], WORDS)
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<|im_start|>"], **names)
    made.chat_template = CHAT
    return made
