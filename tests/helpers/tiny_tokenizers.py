"""Tokenizers of each family of checkpoints, trained on a few sentences."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from s2s.vocabulary import pretrained, sentence_pieces

SEEN = ["the quick brown fox jumps over the lazy dog", "kicking; quickly!", "今天天气很好, 我们去公园 玩"]
UNSEEN = ["zebra quack 去今", "a second sentence about nothing", "我天", "", "新闻标题生成模型 𠀀𠀁"]
BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
XLM = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
GPT = {"eos_token": "<|endoftext|>", "pad_token": "<pad>"}


@cache
def learnt():
    return sentence_pieces.train([*SEEN, *UNSEEN], 400)


def train(tokenizer, kind, special, **settings):
    """Train with all special pieces in front but the last, which stands behind the model's own, as in XLM-R."""
    *first, last = special.values()
    tokenizer.train_from_iterator([*SEEN, *UNSEEN], kind(special_tokens=first, show_progress=False, **settings))
    tokenizer.add_special_tokens([last])
    return tokenizer, special


def wordpiece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return train(tokenizer, trainers.WordPieceTrainer, BERT, vocab_size=200)


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return train(tokenizer, trainers.UnigramTrainer, XLM, vocab_size=120, unk_token="<unk>")


def bpe():
    tokenizer, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return train(tokenizer, trainers.BpeTrainer, GPT, vocab_size=400, initial_alphabet=alphabet)


@cache
def whole(kind):
    tokenizer, special = {"wordpiece": wordpiece, "unigram": unigram, "bpe": bpe}[kind]()
    return pretrained.PretrainedVocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special))
