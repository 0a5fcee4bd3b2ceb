"""The engines with two processes that share the CPU (gloo), and the files in configs/.

DDP, FSDP2 and, where it is installed, DeepSpeed ZeRO-3 do what one process does, and each takes up what another saved.
"""
import importlib.util, json, os, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.numpy import load_file

TOP, WORKER = Path(__file__).parents[1], Path(__file__).with_name('worker_engines.py')
CONFIGS = TOP/'configs'
ENV = {k:v for k,v in os.environ.items() if not k.startswith(('ACCELERATE_', 'FSDP_'))}|{
    'PATH':f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'PYTHONPATH':f'{TOP}:{os.environ.get("PYTHONPATH", "")}', 'OMP_NUM_THREADS':'1', 'HF_HUB_OFFLINE':'1', 'CUDA_VISIBLE_DEVICES':'', 'DS_ACCELERATOR':'cpu', 'PYTHONWARNINGS':'ignore'}
PROBE = 'import torch; torch.distributed.init_process_group("gloo"); t = torch.ones(1); torch.distributed.all_reduce(t); assert t.item()==2'
ENGINES = {'DDP':['accelerate_config.yaml', '--multi_gpu', '--main_process_port', '0'], 'FSDP2':['accelerate_fsdp.yaml'], 'DeepSpeed ZeRO-3':['accelerate_deepspeed.yaml']}

def skip_without_gloo(said:str):
    "Two processes that failed: is it this machine, on which no two processes can talk? Then skip, and say so"
    try: r = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '--no_python', sys.executable, '-c', PROBE], env=ENV, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired: r = SimpleNamespace(returncode=1, stderr='two processes did not find each other within 60 s')
    if r.returncode: pytest.skip(f'NOT TESTED: engines with several processes. torch.distributed (gloo) does not work on this machine: {next((l for l in r.stderr.splitlines() if "Error" in l), r.stderr[-300:])}')
    pytest.fail(said)

def work(out:Path, *args, launch:tuple=())->dict:
    "What the worker says; `launch`: how to start two"
    start = ['accelerate', 'launch', '--config_file', *launch, '--num_processes', '2'] if launch else [sys.executable]
    try: r = subprocess.run([*start, str(WORKER), str(out), *map(str, args)], env=ENV, cwd=out.parent, capture_output=True, text=True, timeout=150)
    except subprocess.TimeoutExpired: r = SimpleNamespace(returncode=1, stderr='the processes wait for each other, or for a machine with too much to do: no end after 150 s')
    if not out.exists(): (skip_without_gloo if launch else pytest.fail)(r.stderr[-4000:])     # written last, when all is done: gloo's threads now and then abort a process that ends
    return json.loads(out.read_text())

def fp32_deepspeed(folder:Path)->Path:
    "The shipped files, with fp32 in place of bf16"
    settings = json.loads((CONFIGS/'deepspeed_zero3.json').read_text())
    assert settings['torch_autocast']['enabled'] and not settings['bf16']['enabled']
    settings['torch_autocast']['enabled'] = False
    (folder/'zero3.json').write_text(json.dumps(settings))
    (folder/'deepspeed.yaml').write_text((CONFIGS/'accelerate_deepspeed.yaml').read_text().replace('configs/deepspeed_zero3.json', str(folder/'zero3.json')))
    return folder/'deepspeed.yaml'

@pytest.fixture(scope='module')
def one(tmp_path_factory)->tuple:
    out = tmp_path_factory.mktemp('one')/'said.json'
    return work(out), out

@pytest.fixture(scope='module', params=ENGINES)
def two(request, one, tmp_path_factory)->tuple:
    "Two processes, which were given what one process saved"
    config, *flags = ENGINES[request.param]
    out, config = tmp_path_factory.mktemp('two')/'said.json', CONFIGS/config
    if 'DeepSpeed' in request.param:
        if importlib.util.find_spec('deepspeed') is None: pytest.skip('NOT TESTED: DeepSpeed is not installed (DS_BUILD_OPS=0 pip install -c constraints.txt deepspeed)')
        config = fp32_deepspeed(out.parent)
    said = work(out, one[1], launch=(str(config), *flags))
    assert (said['engine'], said['processes']) == (request.param, 2)
    return said, out

def same_step(a:dict, b:dict):
    np.testing.assert_allclose(a['loss'], b['loss'], atol=1e-5)
    np.testing.assert_allclose(a['grad_norm'], b['grad_norm'], atol=1e-4)

def same_states(a:Path, b:Path, when:str):
    a, b = (load_file(p.with_suffix(f'.{when}')) for p in (a, b))
    assert a.keys()==b.keys() and len(a)==21*4
    for k in a: np.testing.assert_allclose(a[k], b[k], atol=1e-4, rtol=0, err_msg=k)

def test_one_process(one):
    said, _ = one
    assert said['engine']=='one process' and said['names'] and said['whole after an evaluation'] and said['goes on to the bit'] and said['plain copy']==0
    assert said['steps'][0]['grad_norm']>1, 'nothing to clip'

def test_two_processes_step_as_one(one, two):
    for a,b in zip(two[0]['steps'], one[0]['steps'], strict=True): same_step(a, b)
    for when in ('begin', 'two', 'end'): same_states(two[1], one[1], when)
    assert two[0]['names'] and two[0]['groups']==2, 'matrices decay, and norms do not'

def test_two_go_on_where_one_stopped(one, two):
    assert two[0]['loads what it was given']
    same_step(two[0]['third'], one[0]['steps'][2])

def test_one_goes_on_where_two_stopped(two, tmp_path):
    said = work(tmp_path/'said.json', two[1])
    assert said['loads what it was given']
    same_step(said['third'], two[0]['steps'][2])

def test_goes_on_to_the_bit(two): assert two[0]['goes on to the bit']

def test_evaluation(two):
    "A plain copy, called 3 times by one process and 5 times by the other; training goes on after it"
    said, _ = two
    assert said['plain copy']<1e-5 and said['whole after an evaluation'] and np.isfinite(said['still trains']['loss'])

def test_all_agree(one, two):
    assert two[0]['errors']==[None, 'process 1 fails'] and one[0]['errors']==[None, 'process 0 fails']

def test_other_fsdp_is_refused(monkeypatch):
    from structure_search.engines import make_accelerator
    monkeypatch.setenv('ACCELERATE_USE_FSDP', 'true'); monkeypatch.setenv('FSDP_VERSION', '1')
    with pytest.raises(ValueError, match='second version'): make_accelerator()

def launched(name:str, *flags):
    "What accelerate's launcher makes of a file"
    args = launch_command_parser().parse_args(['--config_file', str(CONFIGS/name), *flags, '-m', 'structure_search.train', '--help'])
    return _validate_launch_command(args)[0]

def test_every_config_is_known_to_accelerate():
    files = {p.name for p in CONFIGS.glob('*.yaml')}
    assert files=={'accelerate_config.yaml', 'accelerate_fsdp.yaml', 'accelerate_deepspeed.yaml', 'accelerate_two_machines.yaml'}
    for name in sorted(files):
        load_config_from_file(str(CONFIGS/name))        # raises ValueError for a key it doesn't know
        head = (CONFIGS/name).read_text().split('compute_environment')[0]
        assert f'--config_file configs/{name}' in head and 'un here:' in head and 'Not run here:' in head, name

def test_configs(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    a = launched('accelerate_config.yaml')
    assert (a.num_processes, a.multi_gpu, a.use_fsdp, a.use_deepspeed, a.mixed_precision)==(1, False, False, False, 'no')
    a = launched('accelerate_config.yaml', '--multi_gpu', '--num_processes', '4')
    assert (a.num_processes, a.num_machines, a.multi_gpu)==(4, 1, True)
    a = launched('accelerate_fsdp.yaml', '--num_processes', '4')
    env = prepare_multi_gpu_env(a)
    assert a.use_fsdp and a.num_processes==4 and {k:env[k] for k in ('ACCELERATE_USE_FSDP', 'FSDP_VERSION', 'FSDP_TRANSFORMER_CLS_TO_WRAP', 'FSDP_RESHARD_AFTER_FORWARD', 'FSDP_OFFLOAD_PARAMS', 'FSDP_CPU_RAM_EFFICIENT_LOADING')}== \
        dict(ACCELERATE_USE_FSDP='true', FSDP_VERSION='2', FSDP_TRANSFORMER_CLS_TO_WRAP='LlamaDecoderLayer', FSDP_RESHARD_AFTER_FORWARD='true', FSDP_OFFLOAD_PARAMS='false', FSDP_CPU_RAM_EFFICIENT_LOADING='false')
    for name in ('accelerate_fsdp.yaml', 'accelerate_deepspeed.yaml'):
        with pytest.raises(ValueError, match='num_processes'): launched(name)
    a = launched('accelerate_deepspeed.yaml', '--num_processes', '4')
    assert a.use_deepspeed and (TOP/a.deepspeed_config_file).is_file()
    a = launched('accelerate_two_machines.yaml', '--main_process_ip', '10.9.9.9', '--machine_rank', '1')
    assert (a.multi_gpu, a.num_machines, a.num_processes, a.machine_rank, a.main_process_ip, a.main_process_port, a.rdzv_backend)==(True, 2, 16, 1, '10.9.9.9', 29500, 'static')
