"""Adapters whose dW is not s B A: each is refused by its name, none is half read."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import FormatError, InputError
from spectra.loaders.pairing import open_pairs

# Every peft_type of PEFT 0.21 but LORA, and two that no PEFT knows.
PEFT_TYPES = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADALORA", "ADAMSS", "BOFT",
    "ADAPTION_PROMPT", "IA3", "BEFT", "LILY", "LOHA", "LOKR", "OFT", "POLY", "LN_TUNING", "VERA", "FROD", "PVERA",
    "FOURIERFT", "GLORA", "XLORA", "HRA", "VBLORA", "UNILORA", "CPT", "MISS", "RANDLORA", "ROAD",
    "TRAINABLE_TOKENS", "HIRA", "SHIRA", "C3A", "WAVEFT", "OSF", "DELORA", "GRALORA", "CARTRIDGE", "TINYLORA",
    "PSOFT", "PEANUT", "SHADOW", "SUPERTUNING", "DEFT", "BONE", "NOT_A_METHOD",
)  # fmt: skip


SAID = {"ADALORA": "its lora_E is missing", "UNILORA": "UniLoRA"}  # what is refused before the tensors are compared


@pytest.mark.parametrize("method", PEFT_TYPES)
def test_every_other_method_is_refused_by_name_with_the_tensors_of_lora(tmp_path, base, craft, refused, method):
    adapter = craft.adapter(tmp_path / "a", craft.factors(craft.modules[:1]), peft_type=method)
    refused(lambda: open_pairs(base, adapter), SAID.get(method, method), kind=InputError)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.v_proj = torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)

    def forward(self, x):
        return self.v_proj(self.q_proj(x))


def made_by_peft(folder, config):
    """Save what PEFT itself writes for an untrained adapter of this configuration; return base and adapter."""
    import peft

    torch.manual_seed(0)
    block = Block()
    craft_base = {key: tensor.clone() for key, tensor in block.state_dict().items()}
    folder.mkdir()
    save_file(craft_base, folder / "model.safetensors")
    peft.get_peft_model(block, config).save_pretrained(folder / "adapter")
    return folder, folder / "adapter"


MADE = {
    "LOHA": lambda peft: peft.LoHaConfig(r=2, target_modules=["q_proj"]),
    "LOKR": lambda peft: peft.LoKrConfig(r=2, target_modules=["q_proj"]),
    "ADALORA": lambda peft: peft.AdaLoraConfig(init_r=2, target_modules=["q_proj"], total_step=10),
}  # fmt: skip


@pytest.mark.parametrize("name", ["LOHA", "LOKR", "ADALORA"])
@pytest.mark.filterwarnings("ignore")
def test_the_tensors_of_another_method_are_refused_whatever_the_configuration_says(tmp_path, refused, name):
    peft = pytest.importorskip("peft")
    base, adapter = made_by_peft(tmp_path / "m", MADE[name](peft))
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 4}')
    refused(lambda: open_pairs(base, adapter), kind=InputError, lines=4)


OPTIONS = {
    "PiSSA, fast": ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights='pissa_niter_16'"),
    "CorDA": ({"init_lora_weights": "corda"}, "init_lora_weights='corda'"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq'"),
    "LoRA-GA": ({"init_lora_weights": "lora_ga"}, "init_lora_weights='lora_ga'"),
    "in capitals": ({"init_lora_weights": "CorDA"}, "init_lora_weights='CorDA'"),
    "of a later PEFT": ({"init_lora_weights": "nobody_knows"}, "init_lora_weights='nobody_knows'"),
    "expert tensors": ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters"),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 300]]}, "layer_replication"),
    "QA-LoRA of groups of one": ({"use_qalora": True, "qalora_group_size": 1}, "QA-LoRA"),
    "BD-LoRA of no kind": ({"use_bdlora": True}, "use_bdlora"),
    "KaSA": ({"kasa_config": {"beta": 1}}, "KaSA without a lora_diag"),
    "Arrow": ({"arrow_config": {"top_k": 2}}, "arrow_config"),
    "merged linear": ({"enable_lora": [True, False, True]}, "2 enabled blocks"),
    "merged linear of no kind": ({"enable_lora": "all"}, "enable_lora"),
}


@pytest.mark.parametrize(("options", "fragment"), OPTIONS.values(), ids=OPTIONS)
def test_an_option_that_changes_what_dw_is_is_refused_by_name(tmp_path, base, craft, refused, options, fragment):
    adapter = craft.adapter(tmp_path / "a", craft.factors(craft.modules[:1]), **options)
    refused(lambda: open_pairs(base, adapter), fragment, kind=InputError)


HARMLESS = {
    "nothing set": {},
    "every option off": {"use_qalora": False, "layer_replication": None, "target_parameters": None, "kasa_config": None},
    "gaussian": {"init_lora_weights": "gaussian"},
    "EVA": {"init_lora_weights": "eva"},
    "init off": {"init_lora_weights": False},
    "QA-LoRA beside a layer that is not quantised": {"use_qalora": True},
    "BD-LoRA of other modules": {"use_bdlora": {"target_modules_bd_a": ["nowhere"], "nblocks": 2}},
    "no block merged": {"enable_lora": [False, False]},
    "options of a later PEFT": {"an_option_nobody_knows": {"deep": [1, 2]}},
}  # fmt: skip


@pytest.mark.parametrize("options", HARMLESS.values(), ids=HARMLESS)
def test_options_that_leave_dw_alone_are_read(tmp_path, base, craft, pairs, options):
    factors = craft.factors(craft.modules[:1])
    (pair,) = pairs(base, craft.adapter(tmp_path / "a", factors, **options)).values()
    B, A = (factors[f"{craft.modules[0]}.lora_{name}.weight"] for name in "BA")
    assert torch.allclose(pair.update.dense(), 2 * B @ A)


def test_dora_without_its_magnitude_is_refused(tmp_path, base, craft, refused):
    adapter = craft.adapter(tmp_path / "a", craft.factors(craft.modules[:1]), use_dora=True)
    refused(lambda: open_pairs(base, adapter), "DoRA without its lora_magnitude_vector", kind=InputError)


def test_a_magnitude_makes_it_dora_whatever_the_configuration_says(tmp_path, base, craft, pairs):
    factors = craft.factors(craft.modules[:1])
    factors[f"{craft.modules[0]}.lora_magnitude_vector"] = torch.ones(16)
    (pair,) = pairs(base, craft.adapter(tmp_path / "a", factors)).values()
    assert torch.allclose(pair.tuned().norm(dim=1), torch.ones(16), atol=1e-5)


CONFIGS = {
    "no peft_type": ({"r": 4}, "no peft_type"),
    "a peft_type that is a list": ({"peft_type": ["LORA"]}, "no peft_type"),
    "an unknown method with escapes": ({"peft_type": "\x1b[31mX"}, "\\x1b[31"),
    "r true": ({"r": True}, "r is True; it must be a whole number"),
    "r zero": ({"r": 0}, "r is 0"),
    "r negative": ({"r": -4}, "r is -4"),
    "r a fraction": ({"r": 4.0}, "r is 4.0"),
    "r a text": ({"r": "4"}, "r is '4'"),
    "r null": ({"r": None}, "r is None"),
    "r 2^40": ({"r": 2**40}, "r is 1099511627776"),
    "r a list": ({"r": [4]}, "r is [4]"),
    "alpha a text": ({"lora_alpha": "16"}, "lora_alpha is '16'; it must be a finite number"),
    "alpha true": ({"lora_alpha": True}, "lora_alpha is True"),
    "alpha null": ({"lora_alpha": None}, "lora_alpha is None"),
    "alpha of 90 digits": ({"lora_alpha": 10**90}, "lora_alpha is 1000"),
    "alpha beyond float32": ({"lora_alpha": 1e300}, "lora_alpha is 1e+300"),
    "use_dora a text": ({"use_dora": "yes"}, "use_dora is 'yes'; it must be true or false"),
    "use_rslora a number": ({"use_rslora": 1}, "use_rslora is 1"),
    "rank_pattern a list": ({"rank_pattern": [1]}, "rank_pattern is [1]; it must be a mapping"),
    "a rank in it a text": ({"rank_pattern": {"q": "8"}}, "rank_pattern is '8'"),
    "an alpha in it infinite": ({"alpha_pattern": {"q": -1e308}}, "alpha_pattern is -1e+308"),
    "a pattern that is no expression": ({"rank_pattern": {"(q_proj": 4}}, "'(q_proj' is not a regular expression"),
}


@pytest.mark.parametrize(("options", "fragment"), CONFIGS.values(), ids=CONFIGS)
def test_a_configuration_with_impossible_values_names_the_field(tmp_path, base, craft, refused, options, fragment):
    adapter = craft.adapter(tmp_path / "a", craft.factors(craft.modules[:1]), **options)
    if "peft_type" not in options and fragment == "no peft_type":
        (adapter / "adapter_config.json").write_text(json.dumps(options))
    refused(lambda: open_pairs(base, adapter), fragment)


RAW = {
    "r 1e400": ('{"peft_type": "LORA", "r": 1e400}', "r is inf"),
    "alpha 1e999": ('{"peft_type": "LORA", "r": 4, "lora_alpha": 1e999}', "lora_alpha is inf"),
    "alpha NaN": ('{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}', "NaN is not a number JSON allows"),
    "alpha -Infinity": ('{"peft_type": "LORA", "r": 4, "lora_alpha": -Infinity}', "-Infinity is not a number"),
    "alpha of 400 digits": ('{"peft_type": "LORA", "r": 4, "lora_alpha": 1%s}' % ("0" * 400), "a number of 401 digits"),
    "r of 5000 digits": ('{"peft_type": "LORA", "r": 1%s}' % ("0" * 5000), "a number of 5001 digits"),
    "r twice": ('{"peft_type": "LORA", "r": 4, "r": 64}', "'r' stands twice"),
    "a method twice": ('{"peft_type": "LOHA", "peft_type": "LORA", "r": 4}', "'peft_type' stands twice"),
    "nesting 100 000 deep": ('{{"peft_type": "LORA", "r": {}{}}}'.format("[" * 100_000, "]" * 100_000), "nested too deeply"),
    "nesting in a pattern": ('{{"peft_type": "LORA", "rank_pattern": {}1{}}}'.format('{"a":' * 900, "}" * 900), "rank_pattern is"),
    "nine megabytes": ('{"peft_type": "LORA", "r": 4, "x": "%s"}' % ("x" * 9_000_000), "over 8.0 MB"),
    "a list": ("[]", "not an object"),
    "an empty file": ("", "not valid JSON"),
    "YAML": ("peft_type: LORA\n", "not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "fragment"), RAW.values(), ids=RAW)
def test_a_configuration_that_is_a_bomb_is_refused_at_once(tmp_path, base, craft, refused, text, fragment):
    adapter = craft.adapter(tmp_path / "a", craft.factors(craft.modules[:1]))
    (adapter / "adapter_config.json").write_text(text)
    refused(lambda: open_pairs(base, adapter), "adapter_config.json", fragment)


CONFIG_JSON = {
    "nesting 100 000 deep": "[" * 100_000 + "]" * 100_000,
    "a key twice": '{"model_type": "gpt2", "model_type": "llama"}',
    "NaN": '{"model_type": "llama", "x": NaN}',
    "a huge number": '{"model_type": "llama", "x": 1%s}' % ("0" * 5000),
    "a list": "[]",
    "nine megabytes": '{"x": "%s"}' % ("x" * 9_000_000),
}


@pytest.mark.parametrize("text", CONFIG_JSON.values(), ids=CONFIG_JSON)
def test_a_model_s_configuration_that_is_a_bomb_is_refused_at_once(base, refused, text):
    (base / "config.json").write_text(text)
    refused(lambda: open_pairs(base, base), "config.json", kind=FormatError)


ODD_CONFIG = {
    "model_type a list": {"model_type": ["gpt2"]},
    "model_type a mapping": {"model_type": {"a": 1}},
    "quantization_config a text": {"quantization_config": "4bit"},
    "quant_method a list": {"quantization_config": {"quant_method": [1]}},
    "transposed_modules forged": {"transposed_modules": [["q"], 3, None]},
    "text_config a number": {"text_config": 3, "tie_word_embeddings": "yes"},
    "experts a text": {"num_experts": "many", "num_local_experts": [1]},
    "everything null": {"model_type": None, "architectures": None, "text_config": None, "quantization_config": None},
}


@pytest.mark.parametrize("config", ODD_CONFIG.values(), ids=ODD_CONFIG)
def test_odd_values_in_a_model_s_configuration_break_nothing(base, diagnose, config):
    (base / "config.json").write_text(json.dumps(config))
    report = diagnose(base, base)
    assert len(report.rows) == 12
    report.to_json()


HOSTILE_PATTERNS = {
    "the classic": "(a+)+$",
    "alternatives that overlap": "(a|aa)" * 30 + "x",
    "optional letters": "a?" * 30 + "a" * 30,
    "stars in a row": "(.*)(.*)(.*)(.*)x",
    "nested stars": "((a*)*)*b",
    "counted repeats": "(a{1,30}){1,30}b",
    "lazy": "(a*?)(a*?)(a*?)(a*?)b",
    "five thousand brackets": "(" * 5000 + ")" * 5000,
    "a backreference": r"(a*)(a*)(a*)\1\2\3b",
    "a lookahead": "(?=(a+))(a+)(a+)(a+)b",
}


@pytest.mark.parametrize("pattern", HOSTILE_PATTERNS.values(), ids=HOSTILE_PATTERNS)
@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_never_ends_is_refused_or_answered_in_time(tmp_path, craft, refused, pairs, field, pattern):
    modules = (*tuple("a" * 62 + f".{number:02}" for number in range(20)), "a" * 64)
    base = craft.model(tmp_path / "b", craft.weights(seed=0, names=tuple(f"{module}.weight" for module in modules)))
    adapter = craft.adapter(tmp_path / "a", craft.factors(modules), **{field: {pattern: 4}})
    refused(lambda: pairs(base, adapter), "adapter_config.json", pattern[:6])


PATTERNS = {
    "a plain name": ("q_proj", True),
    "a longer name": ("layers.0.self_attn.q_proj", True),
    "the end of a word": ("_proj", False),
    "an expression": (r".*layers\.\d+\.self_attn\.(q|k|v)_proj", True),
    "sixteen choices": (r"layers.(0|1|2|3|4|5|6|7|8|9|10|11|12|13|14|15).self_attn.q_proj", True),
    "choices at the top": ("v_proj|self_attn.q_proj", True),
    "choices that end otherwise": ("q_proj|layers.7.v_proj", True),
    "another module": ("v_proj", False),
}


@pytest.mark.parametrize(("pattern", "applies"), PATTERNS.values(), ids=PATTERNS)
def test_the_patterns_that_people_write_are_matched_as_peft_does(tmp_path, base, craft, pairs, pattern, applies):
    import re

    module = craft.modules[0]
    assert applies == bool(re.match(rf"(.*\.)?({pattern})$", module)), "PEFT's own expression"
    factors = craft.factors((module,))
    adapter = craft.adapter(tmp_path / "a", factors, alpha_pattern={pattern: 20})
    (pair,) = pairs(base, adapter).values()
    B, A = (factors[f"{module}.lora_{name}.weight"] for name in "BA")
    assert math.isclose((pair.update.dense() / (B @ A)).median().item(), 5.0 if applies else 2.0, rel_tol=1e-4)
