"""The systems of ``benchmark_decoding.py``, each as its users decode with it.

Weights are random; what is generated means nothing, and takes as long as if it did.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.peers import Bert4Torch, Shape, TransformersBart
from benchmarks.systems import S2S
from benchmarks.timing import BEGIN, END, PADDING
from s2s.batch import pad
from s2s.inference.generate import generate
from s2s.machine.paths import KERNELS, computing
from s2s.runs.paths import Sizes, choose
from s2s.search.methods.beam import SearchSettings
from s2s.vocabulary import Vocabulary

Sources = Sequence[list[int]]


class Search(NamedTuple):
    """Beams, and tokens that each hypothesis must have."""

    beams: int
    tokens: int


class Decoder(Protocol):
    """A model that writes the best hypothesis of each source, ``batch`` sources at a time."""

    def decode(self, sources: Sources, batch: int) -> list[list[int]]:
        """Ids, without what begins or ends them."""


class Ids(Vocabulary):
    """A vocabulary of ids alone."""

    def __init__(self, size: int) -> None:
        self.size, self.padding, self.begin, self.end = size, PADDING, BEGIN, END
        self.unknown = BEGIN  # a piece of its own, so that a search forbids one, as it does for every real vocabulary

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(word) for word in text.split()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def save(self, folder: Path) -> None:
        raise NotImplementedError  # it is made for one measurement and never written


class OurDecoder:
    """Beam search of s2s over its prefix LM, in BERT's form."""

    def __init__(self, shape: Shape, search: Search, precision: str) -> None:
        self.model, self.search = S2S(shape).model.model.eval(), search
        self.vocabulary, self.precision = Ids(shape.vocabulary), precision

    def decode(self, sources: Sources, batch: int) -> list[list[int]]:
        beams, tokens = self.search
        rules = SearchSettings(beams=beams, min_length=tokens, batch=batch, precision=self.precision)
        with computing(self.ways(batch)):
            hypotheses = generate(self.model, self.vocabulary, sources, rules, tokens, lambda _: None)
        return [n_best[0][0] for n_best in hypotheses]

    def ways(self, batch: int) -> dict[str, str]:
        """Return the ways that a run of these sizes would take, measured at the first call, with the asked kernel."""
        shape, switch = self.model.shape, torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
        kernel = next((name for name, value in KERNELS.items() if value == switch), "default")
        sizes = Sizes(
            shape.width, shape.feed_forward, shape.heads, shape.layers, sources=batch, hypotheses=self.search.beams,
            head_size=shape.width // shape.heads, int8=self.precision == "int8",
        )  # fmt: skip
        return choose(sizes, {"products": kernel})[0]


class BartDecoder:
    """``transformers``' BART with half of the layers on either side."""

    def __init__(self, shape: Shape, search: Search, precision: str) -> None:  # noqa: ARG002
        self.model, self.search = TransformersBart(shape).model.eval(), search
        self.model.generation_config.forced_eos_token_id = None

    @torch.inference_mode()
    def decode(self, sources: Sources, batch: int) -> list[list[int]]:
        hypotheses = []
        for start in range(0, len(sources), batch):
            ids = pad(sources[start : start + batch], PADDING)
            hypotheses += self.model.generate(
                ids, attention_mask=(ids != PADDING).long(), **forced(self.search)
            ).tolist()
        return [row[1:] for row in hypotheses]


class GPT2Decoder:
    """``transformers``' GPT-2, which reads the source as a prompt, padded on the left."""

    def __init__(self, shape: Shape, search: Search, precision: str) -> None:  # noqa: ARG002
        config = GPT2Config(
            vocab_size=shape.vocabulary,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_positions=shape.positions,
            bos_token_id=BEGIN,
            eos_token_id=END,
            pad_token_id=PADDING,
        )
        self.model, self.search = GPT2LMHeadModel(config).eval(), search

    @torch.inference_mode()
    def decode(self, sources: Sources, batch: int) -> list[list[int]]:
        hypotheses = []
        for start in range(0, len(sources), batch):
            ids = pad([row[::-1] for row in sources[start : start + batch]], PADDING).flip(1)
            rows = self.model.generate(ids, attention_mask=(ids != PADDING).long(), **forced(self.search))
            hypotheses += rows[:, ids.shape[1] :].tolist()
        return hypotheses


def forced(search: Search) -> dict[str, Any]:
    """Return the settings under the names of ``transformers``."""
    beams, tokens = search
    return {"num_beams": beams, "min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False}


class Bert4TorchDecoder:
    """bert4torch's UniLM and beam search as in its example of titles: one source, all recomputed at each step."""

    def __init__(self, shape: Shape, search: Search, precision: str) -> None:  # noqa: ARG002
        model, self.search = Bert4Torch(shape).model.eval(), search
        from bert4torch.generation import AutoRegressiveDecoder

        class Titles(AutoRegressiveDecoder):
            @AutoRegressiveDecoder.wraps(default_rtype="logits")
            def predict(self, inputs: list[Tensor], output_ids: Tensor, states: None) -> Tensor:  # noqa: ARG002
                tokens, segments = inputs
                ids = torch.cat([tokens, output_ids], 1)
                return model.predict([ids, torch.cat([segments, torch.ones_like(output_ids)], 1)])[-1][:, -1]

        self.decoder = Titles(eos_token_id=-1, max_new_tokens=search.tokens, min_new_tokens=search.tokens)

    @torch.inference_mode()
    def decode(self, sources: Sources, batch: int) -> list[list[int]]:  # noqa: ARG002
        inputs = ([row, [0] * len(row)] for row in sources)
        return [self.decoder.beam_search(pair, top_k=self.search.beams)[0].tolist() for pair in inputs]


class CTranslate2Decoder:
    """CTranslate2 with the weights of ``transformers``' BART; it puts sources of like length together itself."""

    def __init__(self, shape: Shape, search: Search, precision: str) -> None:
        from ctranslate2 import Translator

        self.names, self.search = [f"t{number}" for number in range(shape.vocabulary)], search
        kind = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}[precision]
        threads = torch.get_num_threads()
        with TemporaryDirectory() as folder:
            self._convert(shape, Path(folder))
            self.translator = Translator(f"{folder}/converted", compute_type=kind, intra_threads=threads)

    def _convert(self, shape: Shape, folder: Path) -> None:
        from ctranslate2.converters import TransformersConverter

        model = TransformersBart(shape).model
        # The converter asks these of a BART's configuration that its own class no longer has.
        model.config.update({"normalize_before": False, "normalize_embedding": True})
        model.save_pretrained(folder)
        words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(self.names)}, self.names[3]))
        special = {"pad_token": PADDING, "bos_token": BEGIN, "eos_token": END, "unk_token": 3}
        named = {kind: self.names[number] for kind, number in special.items()}
        PreTrainedTokenizerFast(tokenizer_object=words, **named).save_pretrained(folder)
        TransformersConverter(str(folder)).convert(str(folder / "converted"))

    def decode(self, sources: Sources, batch: int) -> list[list[int]]:
        beams, tokens = self.search
        hypotheses = self.translator.translate_batch(
            [[self.names[number] for number in row] for row in sources],
            beam_size=beams,
            min_decoding_length=tokens,
            max_decoding_length=tokens,
            max_batch_size=batch,
        )
        return [[int(name[1:]) for name in result.hypotheses[0]] for result in hypotheses]


class Row(NamedTuple):
    """How a system is built, in which precisions it decodes, and whether it takes several sources at a time."""

    build: Callable[[Shape, Search, str], Decoder]
    precisions: tuple[str, ...] = ("fp32",)
    batches: bool = True


DECODERS = {
    "s2s": Row(OurDecoder, ("fp32", "bf16", "int8")),
    "transformers_bart": Row(BartDecoder),
    "transformers_gpt2": Row(GPT2Decoder),
    "bert4torch": Row(Bert4TorchDecoder, batches=False),
    "ctranslate2": Row(CTranslate2Decoder, ("fp32", "int8")),
}
