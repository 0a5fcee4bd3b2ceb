"What a training will need, by hand; and what the doctor says of healthy, damaged and missing things."
import os, shutil, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from structure_search import doctor
from structure_search.foldseek_db import demo_db
from structure_search.model import preset_config
from structure_search.plan import disk_bytes, flop_per_token, largest_rows, make_plan, memory_parts, needs_checkpointing, packing, parameters, peak_flops, plan_text, step_flop
from structure_search.vocab import minimal_vocab

BIG, H100 = preset_config('tinyllama-1.1b', minimal_vocab('kanzi')), 'NVIDIA H100 80GB HBM3'
LENGTHS = np.random.default_rng(0).integers(20, 401, 20_000).astype(np.int32)

def test_parameters_by_hand():
    assert parameters(BIG)==dict(embedding=2_113_536, attention=207_618_048, MLP=761_266_176, norms=92_160, head=2_113_536)

def test_operations_by_hand():
    "A token of a long training: 6 x 0.973 billion and a little attention, 6 GFLOP; half of an H100 makes 82,000 of them a second"
    L = np.array([3, 100])
    matrices = 6*(207_618_048+761_266_176)*(9+203)+6*2048*1032*(4+101)
    assert step_flop(BIG, L)==pytest.approx(matrices+12*22*2048*(9*10/2+203*204/2), rel=1e-12)
    assert flop_per_token(BIG, LENGTHS)==pytest.approx(step_flop(BIG, LENGTHS)/(2*LENGTHS.astype(float)+3).sum(), rel=1e-12)
    assert flop_per_token(BIG, LENGTHS)==pytest.approx(6.0e9, rel=0.02)
    assert 0.5*peak_flops(H100)/6.0e9==pytest.approx(82_400, rel=0.01)

def test_memory_by_hand():
    "4 rows of 1,024: 26d+8F+4A+4G+4H+8 bytes a token and layer"
    m = memory_parts(BIG, 4)
    layer = 26*2048+8*5632+4*2048+4*256+4*32+8
    assert m['weights']==m['gradients']==m['moments']/2==4*973_203_456 and m['buckets']==0 and m['bf16 weights']==2*(973_203_456-2_113_536-92_160)
    assert m['activations']==4096*(22*layer+8*2048+4+8*64+2048)
    one, eight = largest_rows(BIG), largest_rows(BIG, engine='FSDP2', processes=8)
    assert 20<=one<=26<eight and largest_rows(BIG, checkpointing=True)>4*one
    assert not needs_checkpointing(BIG, one) and needs_checkpointing(BIG, one+1) and not needs_checkpointing(BIG, 4, 1024, 80e9, 'one process', 1)
    assert sum(memory_parts(BIG, 4, engine='ZeRO-3', processes=4).values())<sum(m.values())<sum(memory_parts(BIG, 4, processes=4).values())
    assert disk_bytes(BIG)['checkpoint']==12*973_203_456

def test_peaks():
    assert [peak_flops(n) for n in ('NVIDIA H100 PCIe', 'NVIDIA H100 NVL', H100, 'NVIDIA A100-PCIE-40GB', 'NVIDIA L40S', 'NVIDIA L4', 'Quadro K600')]==[756e12, 835e12, 989e12, 312e12, 362e12, 121e12, None]

def test_packing_of_few_is_exact_and_of_many_is_near():
    from structure_search.batches import StepPlan
    few, many = packing(LENGTHS[:9000], 16), packing(LENGTHS, 2)
    assert few.exact and few.steps==StepPlan(LENGTHS[:9000], 16).count(1) and few.tokens==(2*LENGTHS[:9000]+3).sum()
    assert not packing(LENGTHS, 2, pools=2).exact and many.fill>0.97
    assert packing(LENGTHS, 2, pools=2).steps==pytest.approx(StepPlan(LENGTHS, 2).count(1), rel=0.01)
    with pytest.raises(ValueError, match='max-length'): packing(np.array([600]), 4)

def test_plan_text_says_what_matters():
    p = make_plan(BIG, LENGTHS, rows=4, accumulation=4, epochs=3)
    text = plan_text(p)
    assert len(text.splitlines())<=16 and max(map(len, text.splitlines()))<170
    assert '973 million parameters' in text and 'assumed' in text and 'packed here' in text and H100 in text
    assert p.days(0.5)==pytest.approx(3*p.epoch.tokens*p.flop/(0.5*989e12)/86400, rel=1e-9)
    assert p.steps==3*p.epoch.steps and make_plan(BIG, LENGTHS, max_steps=7).steps==7
    assert make_plan(BIG, LENGTHS, rows=60).checkpointing and 'DOES NOT FIT' in plan_text(make_plan(BIG, LENGTHS, memory=10e9))

@pytest.fixture
def home(tmp_path)->Path:
    "A folder with a copy of the demo database"
    for f in demo_db().parent.glob('demo*'): shutil.copy(f, tmp_path)
    return tmp_path

def run(home:Path, capsys, *flags)->tuple[int,str]:
    code = doctor.main(['--db-path', str(home/'demo'), '--kanzi-checkpoint', 'mini', '--model-name', 'nano', '--output-dir', str(home/'out'), *flags])
    return code, capsys.readouterr().out

def test_doctor_finds_nothing_wrong(home, capsys):
    code, out = run(home, capsys, '--full')
    assert code==0 and 'BAD' not in out and '\033' not in out and 'ok   db_ca' in out and 'nothing wrong' in out
    assert not (home/'out').exists()

def cut(home): (home/'demo_ca').write_bytes((home/'demo_ca').read_bytes()[:-3000])
def unlink(home): (home/'demo_ca.index').unlink()
def dangle(home): (home/'demo_ss').unlink(); (home/'demo_ss').symlink_to('afdb50_ss')
def empty(home): (home/'demo.index').write_text('')
def letters(home): (home/'demo_ss.index').write_text('7\tseven\t3\n')
def sidecar(home): (home/'demo_kanzi.json').write_text('{}')

@pytest.mark.parametrize('damage,line', [(cut, 'db_ca'), (unlink, 'db_ca'), (dangle, 'db_ss'), (empty, 'db '), (letters, 'db_ss'), (sidecar, 'db_kanzi')])
def test_doctor_finds_damage(home, capsys, damage, line):
    damage(home)
    code, out = run(home, capsys)
    bad = [l for l in out.splitlines() if l.startswith('BAD')]
    assert code==1 and len(bad)==1 and bad[0].startswith(f'BAD  {line}'), out

def test_doctor_of_nothing(tmp_path, capsys, monkeypatch):
    "In an empty folder: what is missing is named, with its mend"
    monkeypatch.chdir(tmp_path)
    assert doctor.main([])==1
    out = capsys.readouterr().out
    assert 'BAD  kanzi' in out and '--kanzi-checkpoint mini' in out and 'BAD  db ' in out and 'Traceback' not in out

def test_doctor_of_a_torch_for_cpus_beside_a_gpu(tmp_path, monkeypatch):
    import torch
    if torch.version.cuda is not None: pytest.skip('this torch is built for CUDA')
    (tmp_path/'nvidia-smi').write_text('#!/bin/sh\necho "NVIDIA H100 80GB HBM3"\n'); (tmp_path/'nvidia-smi').chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    line, = doctor.checked('gpu', doctor.check_gpus)
    assert line.state=='bad' and 'build for CPUs' in line.found and 'torch==' in line.mend

def test_doctor_survives_a_broken_environment(monkeypatch):
    for name in ('torch', 'structure_search.attention', 'structure_search.kanzi_measure', 'structure_search.foldseek_check', 'structure_search.plan', 'structure_search.run_log'): monkeypatch.setitem(sys.modules, name, None)
    lines = doctor.examine(doctor.make_parser().parse_args(['--db-path', str(demo_db())]))
    assert {l.name for l in lines if l.state=='bad'}>={'gpu', 'kernels', 'kanzi', 'db', 'disk', 'trackers'}

def test_wrong_flags_and_help_that_needs_nothing_heavy():
    with pytest.raises(SystemExit) as e: doctor.main(['--nonsense'])
    assert e.value.code==2
    r = subprocess.run([sys.executable, '-X', 'importtime', '-m', 'structure_search.doctor', '--help'], capture_output=True, text=True)
    assert r.returncode==0 and r.stdout.startswith('usage: ss_doctor')
    assert not [l for l in r.stderr.splitlines() if l.split('|')[-1].strip() in ('torch','numpy','transformers')]
