"""Text to tokens and back to bytes: a byte-level BPE vocabulary, so that every loss can be told in bits per byte."""

from pathlib import Path

import numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHUNK = 1 << 16
BYTES = 256


def train_vocabulary(text: bytes, size: int) -> Tokenizer:
    """Learn `size` tokens from a text: the 256 bytes and the merges that shorten it most (Sennrich et al. 2016).

    At 256 every byte is a token. Spends about a second a megabyte and core.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_chunks(text), trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, text: bytes) -> numpy.ndarray:
    """Return the tokens of a text as uint16. Bytes that are no UTF-8 (a character cut in two) become U+FFFD."""
    if tokenizer.get_vocab_size() == BYTES:
        valid = text.decode("utf-8", errors="replace").encode()
        return _byte_table(tokenizer)[numpy.frombuffer(valid, numpy.uint8)]
    found = tokenizer.encode_batch(_chunks(text), add_special_tokens=False)
    return numpy.fromiter((token for part in found for token in part.ids), dtype=numpy.uint16)


def _byte_table(tokenizer: Tokenizer) -> numpy.ndarray:
    """The token of every byte that UTF-8 has, read off a text that holds them all."""
    sample = "".join(map(chr, (*range(0x800), *range(0x800, 0xD800, 0x40), *range(0xE000, 0x110000, 0x1000))))
    table = numpy.zeros(BYTES, numpy.uint16)
    table[numpy.frombuffer(sample.encode(), numpy.uint8)] = tokenizer.encode(sample, add_special_tokens=False).ids
    return table


def token_bytes(tokenizer: Tokenizer) -> numpy.ndarray:
    """Return the length in bytes of every token: a byte-level token has one character a byte."""
    words = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    return numpy.asarray([len(word) for word in words], dtype=numpy.int64)


def load(path: Path) -> Tokenizer:
    return Tokenizer.from_file(str(path))


def _chunks(text: bytes) -> list[str]:
    """The text in pieces of about 64 kB that end at a line's end: no token reaches across a piece."""
    whole, pieces, start = text.decode("utf-8", errors="replace"), [], 0
    while start < len(whole):
        end = whole.find("\n", start + CHUNK) + 1 or len(whole)
        pieces.append(whole[start:end])
        start = end
    return pieces
