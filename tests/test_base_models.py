"Models that come from elsewhere: a folder as Hugging Face has them, its shape, its weights, its vocabulary."
import json
import numpy as np, pytest, torch
from structure_search import train
from structure_search.foldseek_db import demo_db
from structure_search.model import build_model, load_model, make_vocab
from structure_search.predict import Predictor
from structure_search.vocab import RESIDUES, minimal_vocab

@pytest.fixture(scope='module')
def base(tmp_path_factory):
    "A small Llama with a tokenizer that knows single letters, saved as such models are"
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    folder = tmp_path_factory.mktemp('base')
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64)).save_pretrained(folder)
    letters = {t:i for i,t in enumerate(['<unk>', *(chr(c) for c in range(32, 127)), *(f'word{i}' for i in range(204))])}
    tok = Tokenizer(models.WordLevel(letters, unk_token='<unk>')); tok.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tok, unk_token='<unk>').save_pretrained(folder)
    return folder

def test_extended_vocabulary_uses_the_base_letters(base):
    vocab = make_vocab('3di', str(base), 'extended')
    assert vocab.residues==tuple(1+ord(a)-32 for a in RESIDUES)
    assert vocab.specials[0]==300 and vocab.first==306 and vocab.size==328

def test_pretrained_weights_are_kept(base):
    vocab = make_vocab('3di', str(base), 'extended')
    old, new = load_base(base), build_model(str(base), vocab, pretrained=True)
    assert torch.equal(old.model.embed_tokens.weight, new.model.embed_tokens.weight[:300])
    assert torch.equal(old.model.layers[1].mlp.up_proj.weight, new.model.layers[1].mlp.up_proj.weight)
    small = build_model(str(base), minimal_vocab('3di'), pretrained=True)         # other tokens: new embeddings, the same layers
    assert small.get_input_embeddings().weight.shape[0]==48 and torch.equal(old.model.layers[1].mlp.up_proj.weight, small.model.layers[1].mlp.up_proj.weight)
    pad = minimal_vocab('3di').PAD                                                # stands for letters that are hidden: it begins as nothing
    assert not small.get_input_embeddings().weight[pad].any() and small.get_input_embeddings().weight[pad+1].any()
    fresh = build_model(str(base), vocab)                                         # the shape alone
    assert not torch.equal(old.model.layers[1].mlp.up_proj.weight, fresh.model.layers[1].mlp.up_proj.weight)

def load_base(folder):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

@pytest.mark.parametrize('flags', [['--vocab', 'extended', '--pretrained'], ['--vocab', 'extended'], ['--pretrained']])
def test_train_from_a_base(base, tmp_path, flags):
    code = train.main(['--model-name', str(base), '--db-path', str(demo_db()), '--output-dir', str(tmp_path/'o'), '--max-steps', '2', '--batch-size', '1', '--gradient-accumulation-steps', '1',
                       '--eval-samples', '4', '--rmsd-eval-samples', '2', '--max-protein-length', '80', *flags])
    assert code==0
    assert len(Predictor.from_pretrained(tmp_path/'o')('MKTAYIAKQR').ss)==10
    model, vocab, _ = load_model(tmp_path/'o')
    assert (vocab.base is not None)==('extended' in flags) and model.config.vocab_size==vocab.size
    figures = {k:v for line in open(tmp_path/'o'/'metrics.jsonl') for k,v in json.loads(line).items()}
    assert np.isfinite(figures['val_loss'])

def test_extended_default_base_without_its_files():
    "The id of TinyLlama offline: its shape, residues as new tokens"
    vocab = make_vocab('kanzi', 'TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T', 'extended')
    assert (vocab.residues[0], vocab.first, vocab.n_structure)==(32006, 32027, 1000)
