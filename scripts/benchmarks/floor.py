"""The work that a system of ``benchmark_decoding.py`` cannot do without."""

from benchmarks.decoders import Search
from benchmarks.peers import Shape
from benchmarks.timing import Lengths


def least_work(name: str, shape: Shape, search: Search, sources: Lengths) -> float:
    """Floating-point operations that decoding sources of lengths [N] cannot do without.

    With s source tokens, K beams and T tokens, r = 1 + K (T - 1) rows are fed: 2 operations for each weight that a
    token or a row meets, and 4 D for each pair of query and key, a layer. A block has 12 D^2 weights, the output D V.
    A prefix LM takes s tokens through all blocks but the last, of which they need only the 2 D^2 of keys and values.
    BART's source goes through its half of the blocks; its rows meet 2 D^2 more in each of its own for the second
    attention, whose keys and values are 2 D^2 a source token. GPT-2's source sees only its past.
    """
    width, layers, (beams, tokens) = shape.width, shape.layers, search
    s, fed, block, half = sources.astype(float), 1 + beams * (tokens - 1), 12 * width**2, 2 * width**2
    past = 1 + beams * sum(range(2, tokens + 1))
    if name in ("transformers_bart", "ctranslate2"):
        encoder, decoder = layers // 2, layers - layers // 2
        weights = s * (encoder * block + decoder * half) + fed * decoder * (block + half)
        seen = encoder * s**2 + decoder * (past + fed * s)
    else:
        pairs = s * (s + 1) / 2 if name == "transformers_gpt2" else s**2
        weights = s * ((layers - 1) * block + half) + fed * layers * block
        seen = (layers - 1) * pairs + layers * (past + fed * s)
    weights = weights + fed * width * shape.vocabulary
    return float((2 * weights + 4 * width * seen).sum())
