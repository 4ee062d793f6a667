"""Texts, tokens and losses of the study against what they are by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pytest
import torch

from benchmarks.study import model as models
from benchmarks.study import texts, training, vocabulary

TEXT = "Ünïcode, numbers 12 345 and\n\n    code(x): ".encode() * 400


@pytest.mark.parametrize("size", [256, 400])
def test_tokens_stand_for_their_bytes(size):
    tokenizer = vocabulary.train_vocabulary(TEXT, size)
    tokens = vocabulary.encode(tokenizer, TEXT)
    assert 256 <= tokenizer.get_vocab_size() <= size
    assert vocabulary.token_bytes(tokenizer)[tokens].sum() == len(TEXT)
    assert tokenizer.decode(tokens.tolist()) == TEXT.decode()
    assert len(tokens) == len(TEXT) if size == 256 else len(tokens) < len(TEXT)


def test_single_bytes_are_looked_up_as_the_library_would():
    """Every length of UTF-8 character, and bytes that are none."""
    tokenizer = vocabulary.train_vocabulary(TEXT, 256)
    valid = "".join(map(chr, (*range(300), 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF)))
    expected = tokenizer.encode(valid, add_special_tokens=False).ids
    assert vocabulary.encode(tokenizer, valid.encode()).tolist() == expected
    assert tokenizer.decode(vocabulary.encode(tokenizer, b"a\xff\xe2b").tolist()) == "a\ufffd\ufffdb"


def test_every_document_is_in_one_part():
    from pydoc_data.topics import topics

    text = texts.documentation()
    held_out = topics[sorted(topics)[9]].encode()
    assert held_out in text.held_out
    assert held_out not in text.train
    assert len(text.train) + len(text.held_out) == sum(len(one.encode()) for one in topics.values()) + len(topics) - 2
    sources = texts.python_source(most=600_000)
    assert len(sources.train) > 4 * len(sources.held_out) > 0
    assert texts.sums(1) == texts.sums(1) != texts.sums(2)


class Uniform(torch.nn.Module):
    """Every token is as likely as any other."""

    def forward(self, input_ids, use_cache):
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 8))


def test_bits_per_byte_of_a_guess():
    """log2(8) bits a token, 15 of 16 tokens of a window scored, over their bytes."""
    tokens = torch.randint(8, (100,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(1, 9)
    text = training.held_out(tokens, lengths, context=16, most=5)
    assert text.windows.shape == (5, 16)
    scored = lengths[text.windows[:, 1:].long()].sum().item()
    assert training.bits_per_byte(Uniform(), text) == pytest.approx(3 * 75 / scored)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # torch's own, within its compiler
def test_blocks_are_compiled_for_training_alone():
    """One graph serves all blocks, the loss is the same, and neither scoring nor what comes after is compiled."""
    compiled, runs = [], []

    def backend(graph, _inputs):
        compiled.append(graph)

        def run(*inputs):
            runs.append(graph)
            return graph.forward(*inputs)

        return run

    model = models.new_model(replace(models.SIZES["tiny"], layers=4), seed=0)
    tokens = torch.randint(512, (2, 16), generator=torch.Generator().manual_seed(0))

    def loss():
        return model(input_ids=tokens, labels=tokens, use_cache=False).loss.item()

    plain = loss()
    text = training.held_out(tokens.flatten().int(), torch.ones(512, dtype=torch.int64), context=16, most=2)
    with training.compiled_blocks(model, backend):
        assert loss() == pytest.approx(plain, rel=1e-5)
        assert (len(compiled), len(runs)) == (1, 4)
        scored = training.bits_per_byte(model, text)
        assert len(runs) == 4
    assert loss() == plain
    assert training.bits_per_byte(model, text) == scored
    assert len(runs) == 4


def test_the_rate_rises_then_falls_to_a_hundredth():
    rates = numpy.asarray([training.learning_rate_at(step, 200, 0.5) for step in range(200)])
    assert rates.argmax() == 5
    assert rates.max() == pytest.approx(0.5)
    assert (numpy.diff(rates[6:]) < 0).all()
    assert rates[-1] == pytest.approx(0.005, rel=0.02)
    assert math.isclose(rates[0], 0.5 / 6)
